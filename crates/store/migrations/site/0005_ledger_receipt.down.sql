-- Receipts are not given up: the trigger aborts this where there is one, and the schema stays as it is.
DELETE FROM ledger_receipt;
DROP TABLE ledger_receipt;
