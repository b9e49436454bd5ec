UPDATE study SET coordination = json_set(
    coordination, '$.closed',
    (SELECT json_group_array(json(record)) FROM (SELECT record FROM closed_round ORDER BY position))
);

DROP TABLE closed_round;
