DROP TABLE acceptance;
