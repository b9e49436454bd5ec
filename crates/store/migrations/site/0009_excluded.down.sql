DROP TABLE excluded;
