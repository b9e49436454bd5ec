-- What servers have signed about this site's privacy ledger. Rows are only added.
CREATE TABLE ledger_receipt (
    -- The study whose server it was.
    study       TEXT    NOT NULL REFERENCES study (name),
    -- Entries that the ledger had.
    length      INTEGER NOT NULL CHECK (length >= 1),
    -- Hash of the newest one, 64 hexadecimal digits.
    head        TEXT    NOT NULL CHECK (length(head) = 64),
    -- The statement, byte for byte as it was signed.
    statement   BLOB    NOT NULL,
    -- TLS signature scheme.
    scheme      INTEGER NOT NULL,
    -- The signature.
    signature   BLOB    NOT NULL,
    -- The server's certificate, DER.
    certificate BLOB    NOT NULL,
    PRIMARY KEY (study, length, head)
) STRICT;

CREATE TRIGGER ledger_receipt_is_not_changed BEFORE UPDATE ON ledger_receipt
BEGIN
    SELECT RAISE(ABORT, 'ledger_receipt is append-only');
END;

CREATE TRIGGER ledger_receipt_is_not_removed BEFORE DELETE ON ledger_receipt
BEGIN
    SELECT RAISE(ABORT, 'ledger_receipt is append-only');
END;
