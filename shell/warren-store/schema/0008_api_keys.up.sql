-- Keys for programs and for operators far away: what each may do, and until when.

CREATE TABLE api_keys (
    id            INTEGER PRIMARY KEY,
    prefix        TEXT NOT NULL UNIQUE,
    secret_sha256 BLOB NOT NULL CHECK (length(secret_sha256) = 32),
    scopes        TEXT NOT NULL,
    created       TEXT NOT NULL,
    expiry        TEXT NOT NULL,
    last_seen     TEXT -- to some minutes. NULL: never used.
) STRICT;

ALTER TABLE server ADD COLUMN next_api_key INTEGER NOT NULL DEFAULT 1;
