-- The log of this server: every event that changes what may be learned from data. Rows are added in the same
-- transaction as the change that they tell of, and never changed or removed.
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

-- Heads of the log that were signed. Written before anybody is shown them.
CREATE TABLE log_head (
    -- In the order of signing.
    sequence    INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- Entries that it covers.
    size        INTEGER NOT NULL CHECK (size >= 1),
    -- What was signed: JSON, byte for byte.
    statement   BLOB    NOT NULL,
    -- TLS signature scheme.
    scheme      INTEGER NOT NULL,
    -- The signature.
    signature   BLOB    NOT NULL,
    -- The server's certificate at that time, DER.
    certificate BLOB    NOT NULL
) STRICT;

-- A counter-signature names its head.
CREATE INDEX log_head_by_size ON log_head (size);

-- Counter-signatures of those heads by sites.
CREATE TABLE log_witness (
    -- In the order of their coming.
    sequence    INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- The site.
    site        TEXT    NOT NULL,
    -- The head that it has seen.
    head        INTEGER NOT NULL REFERENCES log_head (sequence),
    -- What was signed: JSON, byte for byte.
    statement   BLOB    NOT NULL,
    -- TLS signature scheme.
    scheme      INTEGER NOT NULL,
    -- The signature.
    signature   BLOB    NOT NULL,
    -- The site's certificate at that time, DER.
    certificate BLOB    NOT NULL,
    -- A repeated call adds nothing.
    UNIQUE (site, head)
) STRICT;
