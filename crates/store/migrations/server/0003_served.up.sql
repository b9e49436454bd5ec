-- What each site has of the ended study, so that a server that is started again knows whom to wait for.
CREATE TABLE served (
    -- The site.
    site       TEXT NOT NULL,
    -- A group of the final model that it has fetched; every shared group once it was told of a failure.
    group_name TEXT NOT NULL,
    PRIMARY KEY (site, group_name)
) STRICT;
