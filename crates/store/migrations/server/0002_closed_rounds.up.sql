-- Closed rounds are written once, instead of again with every change of the state.
CREATE TABLE closed_round (
    -- From 0, in the order in which they closed, failed attempts included.
    position INTEGER NOT NULL PRIMARY KEY,
    -- Who took part and how it ended, JSON.
    record   TEXT NOT NULL
) STRICT;

INSERT INTO closed_round (position, record)
SELECT entry.key, entry.value FROM study, json_each(study.coordination, '$.closed') AS entry;

UPDATE study SET coordination = json_set(coordination, '$.closed', json('[]'));
