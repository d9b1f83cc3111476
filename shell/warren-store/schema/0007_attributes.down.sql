ALTER TABLE nodes DROP COLUMN attributes;
