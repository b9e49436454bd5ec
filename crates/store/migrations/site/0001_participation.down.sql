-- Removes everything a site agent keeps.
DROP TABLE metric;
DROP TABLE received_group;
DROP TABLE sealed_group;
DROP TABLE local_group;
DROP TABLE study;
