-- What the aggregation server keeps about the one study it runs.
CREATE TABLE study (
    -- There is one.
    id           INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    -- SHA-256 of the document, 64 hexadecimal digits.
    digest       TEXT NOT NULL CHECK (length(digest) = 64),
    -- The study document, JSON, as every site accepts it.
    document     BLOB NOT NULL,
    -- Where the study stands: the coordination state machine as JSON.
    coordination TEXT NOT NULL
) STRICT;
