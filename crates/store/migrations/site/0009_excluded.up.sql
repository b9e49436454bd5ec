-- Patients who are not trained on or evaluated any more, in any study of this site. Ids stay in this file; logs and
-- documents say how many, never who.
CREATE TABLE excluded (
    -- As in the cohort's patient-id column.
    patient TEXT    NOT NULL PRIMARY KEY,
    -- When it was decided, milliseconds since 1970-01-01, UTC.
    at      INTEGER NOT NULL
) STRICT;
