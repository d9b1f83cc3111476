-- Peers are not told where the node is in the underlay.
ALTER TABLE nodes ADD COLUMN hides_endpoints INTEGER NOT NULL DEFAULT 0 CHECK (hides_endpoints IN (0, 1));
