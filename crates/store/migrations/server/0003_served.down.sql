-- Forgets what each site has of the ended study.
DROP TABLE served;
