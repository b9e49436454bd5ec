-- Where this site stopped taking part in a study, until it goes on. Written before the server is told.
CREATE TABLE halt (
    -- Name of the study; it may be one that was never accepted.
    study      TEXT    NOT NULL PRIMARY KEY,
    -- SHA-256 of its document, 64 hexadecimal digits.
    digest     TEXT    NOT NULL CHECK (length(digest) = 64),
    -- Where and why, as the server is told: JSON.
    withdrawal TEXT    NOT NULL CHECK (json_valid(withdrawal)),
    -- Whether the server has confirmed it.
    told       INTEGER NOT NULL DEFAULT 0 CHECK (told IN (0, 1))
) STRICT;
