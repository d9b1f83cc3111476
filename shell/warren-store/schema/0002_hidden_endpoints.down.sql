ALTER TABLE nodes DROP COLUMN hides_endpoints;
