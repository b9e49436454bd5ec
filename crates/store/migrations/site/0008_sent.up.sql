-- Bytes of updates that were sent on each day, all studies together, for the policy's allowance. Counted before they
-- are sent, repeated sends included.
CREATE TABLE sent (
    -- Days since 1970-01-01, UTC.
    day   INTEGER NOT NULL PRIMARY KEY,
    bytes INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT;
