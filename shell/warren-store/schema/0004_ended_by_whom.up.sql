-- Whether a device is out by somebody's word, which a login (kept_out) or the clock (logged_out) must not undo. Of rows that are
-- out already nobody knows, so they stay as they were.

ALTER TABLE nodes ADD COLUMN kept_out INTEGER NOT NULL DEFAULT 0 CHECK (kept_out IN (0, 1));
ALTER TABLE nodes ADD COLUMN logged_out INTEGER NOT NULL DEFAULT 0 CHECK (logged_out IN (0, 1));
