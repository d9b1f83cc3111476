-- Services with addresses of their own, and which of them nodes say that they would host.

CREATE TABLE services (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    v4       TEXT UNIQUE,
    v6       TEXT UNIQUE,
    ports    TEXT NOT NULL,
    comment  TEXT NOT NULL,
    tags     TEXT NOT NULL,
    approved TEXT NOT NULL, -- ids of nodes
    created  TEXT NOT NULL
) STRICT;

ALTER TABLE server ADD COLUMN next_service INTEGER NOT NULL DEFAULT 1;
ALTER TABLE soft ADD COLUMN offered TEXT NOT NULL DEFAULT '{"hash":"","services":{}}';
