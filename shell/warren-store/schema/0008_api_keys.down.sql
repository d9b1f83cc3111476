ALTER TABLE server DROP COLUMN next_api_key;
DROP TABLE api_keys;
