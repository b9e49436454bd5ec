-- Forgets how records are prepared.
ALTER TABLE study DROP COLUMN preparation;
