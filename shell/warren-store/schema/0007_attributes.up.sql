-- Facts about a device that were set for postures: an object by name, of value, set_by and expiry.
ALTER TABLE nodes ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}';
