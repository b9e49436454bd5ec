-- Studies that somebody at this site has accepted in writing, or taken back. Without a row, or with one that was taken
-- back, the agent neither trains nor sends.
CREATE TABLE acceptance (
    -- Name of the study.
    study       TEXT    NOT NULL PRIMARY KEY,
    -- SHA-256 of its document, 64 hexadecimal digits.
    digest      TEXT    NOT NULL CHECK (length(digest) = 64),
    -- What was signed: JSON.
    statement   BLOB    NOT NULL,
    -- TLS signature scheme, signature and certificate (DER).
    scheme      INTEGER NOT NULL,
    signature   BLOB    NOT NULL,
    certificate BLOB    NOT NULL,
    -- Why it was taken back; nothing while it holds.
    withdrawn   TEXT,
    -- Whether the server has confirmed it.
    told        INTEGER NOT NULL DEFAULT 0 CHECK (told IN (0, 1))
) STRICT;
