-- The registry: one row of counters, people, devices, join keys, the policy; then what is said about them.
-- Times are RFC 3339 text in UTC, keys are in the text form of the field, sets are JSON lists.

CREATE TABLE server (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    revision  INTEGER NOT NULL CHECK (revision >= 0),
    next_user INTEGER NOT NULL,
    next_node INTEGER NOT NULL,
    next_key  INTEGER NOT NULL
, next_service INTEGER NOT NULL DEFAULT 1, next_api_key INTEGER NOT NULL DEFAULT 1) STRICT;

CREATE TABLE users (
    id           INTEGER PRIMARY KEY,
    issuer       TEXT NOT NULL,
    subject      TEXT NOT NULL,
    name         TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    email        TEXT NOT NULL,
    picture_url  TEXT NOT NULL,
    created      TEXT NOT NULL, role TEXT NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'it-admin', 'network-admin', 'billing-admin', 'auditor', 'member')), self_named INTEGER NOT NULL DEFAULT 0 CHECK (self_named IN (0, 1)),
    UNIQUE (issuer, subject)
) STRICT;

CREATE UNIQUE INDEX one_owner ON users (role) WHERE role = 'owner';

CREATE TABLE nodes (
    id              INTEGER PRIMARY KEY,
    machine_key     TEXT NOT NULL,
    node_key        TEXT NOT NULL UNIQUE,
    user_id         INTEGER REFERENCES users (id),
    tags            TEXT,
    name            TEXT NOT NULL UNIQUE,
    name_chosen     INTEGER NOT NULL CHECK (name_chosen IN (0, 1)),
    hostname        TEXT NOT NULL,
    v4              TEXT UNIQUE,
    v6              TEXT UNIQUE,
    created         TEXT NOT NULL,
    expiry          TEXT,
    expired         INTEGER NOT NULL CHECK (expired IN (0, 1)),
    ephemeral       INTEGER NOT NULL CHECK (ephemeral IN (0, 1)),
    joined_with_key INTEGER, -- NULL: an operator approved it. The key itself may have been deleted since.
    approved_routes TEXT NOT NULL, hides_endpoints INTEGER NOT NULL DEFAULT 0 CHECK (hides_endpoints IN (0, 1)), signed_in INTEGER NOT NULL DEFAULT 0 CHECK (signed_in IN (0, 1)), approved INTEGER NOT NULL DEFAULT 1 CHECK (approved IN (0, 1)), kept_out INTEGER NOT NULL DEFAULT 0 CHECK (kept_out IN (0, 1)), logged_out INTEGER NOT NULL DEFAULT 0 CHECK (logged_out IN (0, 1)), attributes TEXT NOT NULL DEFAULT '{}',
    CHECK ((user_id IS NULL) <> (tags IS NULL))
) STRICT;

CREATE TABLE join_keys (
    id            INTEGER PRIMARY KEY,
    prefix        TEXT NOT NULL UNIQUE,
    secret_sha256 BLOB NOT NULL CHECK (length(secret_sha256) = 32),
    user_id       INTEGER REFERENCES users (id),
    tags          TEXT NOT NULL,
    reusable      INTEGER NOT NULL CHECK (reusable IN (0, 1)),
    ephemeral     INTEGER NOT NULL CHECK (ephemeral IN (0, 1)),
    used          INTEGER NOT NULL CHECK (used IN (0, 1)),
    created       TEXT NOT NULL,
    expiry        TEXT
, preapproved INTEGER NOT NULL DEFAULT 0 CHECK (preapproved IN (0, 1)), revoked INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1))) STRICT;

CREATE TABLE sign_ins (
    user_id INTEGER PRIMARY KEY REFERENCES users (id),
    groups  TEXT NOT NULL,
    refresh BLOB, -- encrypted, the key lies beside the database. NULL: the provider cannot be asked again.
    checked TEXT NOT NULL,
    ended   INTEGER NOT NULL CHECK (ended IN (0, 1))
) STRICT;

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

CREATE TABLE api_keys (
    id            INTEGER PRIMARY KEY,
    prefix        TEXT NOT NULL UNIQUE,
    secret_sha256 BLOB NOT NULL CHECK (length(secret_sha256) = 32),
    scopes        TEXT NOT NULL,
    created       TEXT NOT NULL,
    expiry        TEXT NOT NULL,
    last_seen     TEXT -- to some minutes. NULL: never used.
) STRICT;

CREATE TABLE policy (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    text    TEXT NOT NULL,
    updated TEXT NOT NULL
) STRICT;

-- Which rows a revision touched, for whoever has an older copy of them.
CREATE TABLE changes (
    revision INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    id       INTEGER NOT NULL,
    PRIMARY KEY (revision, kind, id)
) STRICT, WITHOUT ROWID;

-- What nodes said last; may be some seconds behind, and outside of any revision.
CREATE TABLE soft (
    node_id    INTEGER PRIMARY KEY,
    disco      TEXT,
    endpoints  TEXT NOT NULL,
    hostinfo   TEXT NOT NULL,
    capability INTEGER NOT NULL,
    last_seen  TEXT
, offered TEXT NOT NULL DEFAULT '{"hash":"","services":{}}') STRICT;

CREATE TABLE audit (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    revision INTEGER NOT NULL,
    at       TEXT NOT NULL,
    actor    TEXT NOT NULL,
    action   TEXT NOT NULL,
    target   TEXT NOT NULL,
    detail   TEXT NOT NULL
) STRICT;

INSERT INTO server (id, revision, next_user, next_node, next_key) VALUES (1, 0, 1, 1, 1);
