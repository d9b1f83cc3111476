-- Enrolment by people: what identity providers say, and who let a device in.

CREATE TABLE sign_ins (
    user_id INTEGER PRIMARY KEY REFERENCES users (id),
    groups  TEXT NOT NULL,
    refresh BLOB, -- encrypted, the key lies beside the database. NULL: the provider cannot be asked again.
    checked TEXT NOT NULL,
    ended   INTEGER NOT NULL CHECK (ended IN (0, 1))
) STRICT;

ALTER TABLE nodes ADD COLUMN signed_in INTEGER NOT NULL DEFAULT 0 CHECK (signed_in IN (0, 1));
ALTER TABLE nodes ADD COLUMN approved INTEGER NOT NULL DEFAULT 1 CHECK (approved IN (0, 1));
ALTER TABLE join_keys ADD COLUMN preapproved INTEGER NOT NULL DEFAULT 0 CHECK (preapproved IN (0, 1));
ALTER TABLE join_keys ADD COLUMN revoked INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1));
