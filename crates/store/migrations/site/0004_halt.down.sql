-- Forgets where this site stopped.
DROP TABLE halt;
