-- The privacy ledger of this site: what was released about its patients, for every study and every cohort that
-- this state folder was ever used with. Rows are added in the same transaction as the update they stand for,
-- and never changed or removed.
CREATE TABLE privacy_event (
    -- Number of the entry, from 1 without gaps.
    sequence INTEGER NOT NULL PRIMARY KEY CHECK (sequence >= 1),
    -- The study that it was released for.
    study    TEXT    NOT NULL REFERENCES study (name),
    -- The entry as JSON, chained to the one before by its hash; its form is the ledger's own.
    document TEXT    NOT NULL CHECK (json_valid(document))
) STRICT;

-- Entries follow each other; this also stops INSERT OR REPLACE.
CREATE TRIGGER privacy_event_follows BEFORE INSERT ON privacy_event
WHEN NEW.sequence <> (SELECT COALESCE(MAX(sequence), 0) + 1 FROM privacy_event)
BEGIN
    SELECT RAISE(ABORT, 'privacy_event: the entry does not follow the last one');
END;

CREATE TRIGGER privacy_event_is_not_changed BEFORE UPDATE ON privacy_event
BEGIN
    SELECT RAISE(ABORT, 'privacy_event is append-only');
END;

CREATE TRIGGER privacy_event_is_not_removed BEFORE DELETE ON privacy_event
BEGIN
    SELECT RAISE(ABORT, 'privacy_event is append-only');
END;
