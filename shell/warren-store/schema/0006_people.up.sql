-- What people are to the policy: an office, and whether their name is their own choice. Of a name that a provider's person has
-- and that is not their address nobody knows any more who chose it, so it counts as theirs until an operator gives it again.

ALTER TABLE users ADD COLUMN role TEXT NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'it-admin', 'network-admin', 'billing-admin', 'auditor', 'member'));
ALTER TABLE users ADD COLUMN self_named INTEGER NOT NULL DEFAULT 0 CHECK (self_named IN (0, 1));
UPDATE users SET self_named = 1 WHERE issuer <> 'local' AND lower(name) <> lower(email);
CREATE UNIQUE INDEX one_owner ON users (role) WHERE role = 'owner';
