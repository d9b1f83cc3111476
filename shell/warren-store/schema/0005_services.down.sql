ALTER TABLE soft DROP COLUMN offered;
ALTER TABLE server DROP COLUMN next_service;
DROP TABLE services;
