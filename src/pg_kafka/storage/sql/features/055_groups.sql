-- What SQL users see of consumer groups, beside kafka.consumer_offsets. Values of records are described where they are
-- made: coordinator/classic_member.py and coordinator/consumer_group.py.

CREATE OR REPLACE VIEW kafka.group_records AS
SELECT j.entry, j.group_id, j.kind, j.key, j.value, j.written_at
FROM (SELECT DISTINCT ON (g.group_id, g.kind, g.key) g.*
      FROM (SELECT * FROM kafka.group_journal_0 UNION ALL SELECT * FROM kafka.group_journal_1) AS g
      ORDER BY g.group_id, g.kind, g.key, g.entry DESC) AS j
WHERE j.value IS NOT NULL;
COMMENT ON VIEW kafka.group_records IS 'The latest records of consumer groups as the broker keeps them; their values may change with any version.';
