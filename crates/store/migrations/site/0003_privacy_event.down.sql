-- A ledger with entries is not given up: the trigger aborts this, and the schema stays as it is.
DELETE FROM privacy_event;
DROP TABLE privacy_event;
