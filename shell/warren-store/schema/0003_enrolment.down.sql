ALTER TABLE join_keys DROP COLUMN revoked;
ALTER TABLE join_keys DROP COLUMN preapproved;
ALTER TABLE nodes DROP COLUMN approved;
ALTER TABLE nodes DROP COLUMN signed_in;
DROP TABLE sign_ins;
