DROP INDEX one_owner;
ALTER TABLE users DROP COLUMN self_named;
ALTER TABLE users DROP COLUMN role;
