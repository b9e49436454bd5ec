-- Forgets how long the sites' ledgers were: one that was restored from a backup is not noticed any more.
DROP TABLE ledger_head;
