-- The highest head that each site has shown of its privacy ledger. A ledger behind it is not taken.
CREATE TABLE ledger_head (
    -- The site.
    site   TEXT    NOT NULL PRIMARY KEY,
    -- Entries of its ledger, of all studies.
    length INTEGER NOT NULL CHECK (length >= 1),
    -- Hash of the newest one, 64 hexadecimal digits.
    head   TEXT    NOT NULL CHECK (length(head) = 64)
) STRICT;
