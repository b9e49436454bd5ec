-- What a site agent keeps: its part in each study, and the values that must survive a power cut.

-- One row per study that this site takes part in.
CREATE TABLE study (
    -- Name of the study, as in the site's configuration.
    name          TEXT NOT NULL PRIMARY KEY,
    -- The study document as the server sent it and this site accepted it.
    document      BLOB NOT NULL,
    -- SHA-256 of the document, 64 hexadecimal digits; another document under this name is refused.
    digest        TEXT NOT NULL CHECK (length(digest) = 64),
    -- Where the site stands: the participation state machine as JSON.
    participation TEXT NOT NULL,
    -- Bytes of model values received so far, repeated transfers included.
    bytes_down    INTEGER NOT NULL DEFAULT 0,
    -- Bytes of model values delivered so far.
    bytes_up      INTEGER NOT NULL DEFAULT 0,
    -- Hash of the final model once it is received and evaluated; empty until then.
    final_model   TEXT CHECK (length(final_model) = 64)
) STRICT;

-- The groups that never leave this site, one version per committed round.
CREATE TABLE local_group (
    study      TEXT    NOT NULL REFERENCES study (name),
    -- Round whose receipt made this version the site's own; 0 for the initial values.
    round      INTEGER NOT NULL CHECK (round >= 0),
    -- Name of the parameter group.
    group_name TEXT    NOT NULL,
    -- Little-endian f32 in manifest order.
    content    BLOB    NOT NULL,
    PRIMARY KEY (study, round, group_name)
) STRICT;

-- The sealed update and the local groups trained with it. Their digest, round and attempt stand in
-- study.participation; the rows are written once, sent as often as needed, and deleted when the fate of
-- the update is known.
CREATE TABLE sealed_group (
    study      TEXT NOT NULL REFERENCES study (name),
    -- update: shared groups, trained minus global. local: new values of the groups that stay.
    part       TEXT NOT NULL CHECK (part IN ('update', 'local')),
    -- Name of the parameter group.
    group_name TEXT NOT NULL,
    -- Little-endian f32 in manifest order.
    content    BLOB NOT NULL,
    PRIMARY KEY (study, part, group_name)
) STRICT;

-- The shared groups as last received from the server.
CREATE TABLE received_group (
    study      TEXT    NOT NULL REFERENCES study (name),
    -- Round that was committed with these values; 0 for the initial model.
    round      INTEGER NOT NULL CHECK (round >= 0),
    -- Hash of the whole global model that they belong to, 64 hexadecimal digits.
    model      TEXT    NOT NULL CHECK (length(model) = 64),
    -- Name of the parameter group.
    group_name TEXT    NOT NULL,
    -- Little-endian f32 in manifest order.
    content    BLOB    NOT NULL,
    PRIMARY KEY (study, group_name)
) STRICT;

-- Numbers about the final joined model. They stay here and in the state folder.
CREATE TABLE metric (
    study  TEXT NOT NULL REFERENCES study (name),
    -- Part of the cohort: train, validation or test.
    split  TEXT NOT NULL,
    -- Name of the metric.
    metric TEXT NOT NULL,
    -- Its value; NULL where the metric is undefined.
    value  REAL,
    PRIMARY KEY (study, split, metric)
) STRICT;
