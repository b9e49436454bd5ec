-- The site's own log: what it accepted, sealed, saw and refused. Rows are only added.
CREATE TABLE log_entry (
    -- Number of the entry, from 0 without gaps: its leaf in the tree.
    position INTEGER NOT NULL PRIMARY KEY CHECK (position >= 0),
    -- The entry as JSON, byte for byte as it is hashed.
    entry    BLOB    NOT NULL
) STRICT;

-- Entries follow each other; this also stops INSERT OR REPLACE.
CREATE TRIGGER log_entry_follows BEFORE INSERT ON log_entry
WHEN NEW.position <> (SELECT COALESCE(MAX(position), -1) + 1 FROM log_entry)
BEGIN
    SELECT RAISE(ABORT, 'log_entry: the entry does not follow the last one');
END;

CREATE TRIGGER log_entry_is_not_changed BEFORE UPDATE ON log_entry
BEGIN
    SELECT RAISE(ABORT, 'log_entry is append-only');
END;

CREATE TRIGGER log_entry_is_not_removed BEFORE DELETE ON log_entry
BEGIN
    SELECT RAISE(ABORT, 'log_entry is append-only');
END;

-- Heads of servers' logs that this site has checked, each against the one before, and those that it refused:
-- the server's own signature is the evidence.
CREATE TABLE log_head (
    -- In the order of seeing.
    sequence    INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- The study whose server it was.
    study       TEXT    NOT NULL REFERENCES study (name),
    -- Entries that it covers.
    size        INTEGER NOT NULL CHECK (size >= 1),
    -- The code with which it was refused; empty where it continued all that was seen before.
    refused     TEXT,
    -- What the server signed: JSON, byte for byte.
    statement   BLOB    NOT NULL,
    -- TLS signature scheme.
    scheme      INTEGER NOT NULL,
    -- The signature.
    signature   BLOB    NOT NULL,
    -- The server's certificate, DER.
    certificate BLOB    NOT NULL
) STRICT;

-- Counter-signatures: this site's own, and another site's where it was evidence.
CREATE TABLE log_witness (
    -- In the order of coming.
    sequence    INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- The study.
    study       TEXT    NOT NULL REFERENCES study (name),
    -- What was signed: JSON, byte for byte.
    statement   BLOB    NOT NULL,
    -- TLS signature scheme.
    scheme      INTEGER NOT NULL,
    -- The signature.
    signature   BLOB    NOT NULL,
    -- The site's certificate, DER.
    certificate BLOB    NOT NULL
) STRICT;

-- Updates that the server has confirmed: each must be in its log.
CREATE TABLE log_delivered (
    -- The study.
    study         TEXT    NOT NULL REFERENCES study (name),
    -- The round.
    round         INTEGER NOT NULL CHECK (round >= 1),
    -- The attempt at it.
    attempt       INTEGER NOT NULL CHECK (attempt >= 1),
    -- SHA-256 of its values, 64 hexadecimal digits.
    update_sha256 TEXT    NOT NULL CHECK (length(update_sha256) = 64),
    -- Number of its entry in the server's log, once that was proved.
    position      INTEGER,
    PRIMARY KEY (study, round, attempt)
) STRICT;
