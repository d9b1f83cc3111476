ALTER TABLE nodes DROP COLUMN logged_out;
ALTER TABLE nodes DROP COLUMN kept_out;
