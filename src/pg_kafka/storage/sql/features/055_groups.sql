-- What SQL users see of consumer groups, beside kafka.consumer_offsets. Values of records are described where they are
-- made: coordinator/classic_member.py and coordinator/consumer_group.py.

CREATE OR REPLACE VIEW kafka.group_records AS
SELECT j.entry, j.group_id, j.kind, j.key, j.value, j.written_at
FROM (SELECT DISTINCT ON (g.group_id, g.kind, g.key) g.*
      FROM (SELECT * FROM kafka.group_journal_0 UNION ALL SELECT * FROM kafka.group_journal_1) AS g
      ORDER BY g.group_id, g.kind, g.key, g.entry DESC) AS j
WHERE j.value IS NOT NULL;
COMMENT ON VIEW kafka.group_records IS 'The latest records of consumer groups as the broker keeps them; their values may change with any version.';

CREATE OR REPLACE VIEW kafka.groups AS
SELECT g.group_id, 'classic' AS kind, g.value ->> 'state' AS state, (g.value ->> 'generation')::integer AS generation,
       g.value ->> 'protocol_type' AS protocol_type, g.value ->> 'protocol' AS protocol,
       jsonb_array_length(g.value -> 'members') AS members, g.written_at
FROM kafka.group_records g WHERE g.kind = 'classic' AND NOT EXISTS (SELECT FROM kafka.sql_groups s WHERE s.group_id = g.group_id)
UNION ALL
SELECT g.group_id, 'consumer',
       CASE WHEN m.members IS NULL THEN 'Empty'
            WHEN (g.value ->> 'epoch')::integer > (g.value ->> 'target_epoch')::integer THEN 'Assigning'
            WHEN m.are_stable AND m.oldest_epoch = (g.value ->> 'target_epoch')::integer THEN 'Stable'
            ELSE 'Reconciling' END,
       (g.value ->> 'epoch')::integer, 'consumer', m.assignor, coalesce(m.members, 0), g.written_at
FROM kafka.group_records g
LEFT JOIN (SELECT r.group_id, count(*)::integer AS members, mode() WITHIN GROUP (ORDER BY r.value ->> 'assignor') AS assignor,
                  coalesce(bool_and(c.value ->> 'state' = 'stable'), false) AS are_stable,
                  min((c.value ->> 'epoch')::integer) AS oldest_epoch
           FROM kafka.group_records r
           LEFT JOIN kafka.group_records c ON c.group_id = r.group_id AND c.key = r.key AND c.kind = 'current'
           WHERE r.kind = 'member' GROUP BY r.group_id) AS m ON m.group_id = g.group_id
WHERE g.kind = 'consumer' AND NOT EXISTS (SELECT FROM kafka.sql_groups s WHERE s.group_id = g.group_id)
UNION ALL
SELECT o.group_id, 'classic', 'Empty', 0, '', NULL, 0, max(o.committed_at)
FROM kafka.client_offsets o
WHERE NOT EXISTS (SELECT FROM kafka.group_records g WHERE g.group_id = o.group_id AND g.kind IN ('classic', 'consumer'))
  AND NOT EXISTS (SELECT FROM kafka.sql_groups s WHERE s.group_id = o.group_id)
GROUP BY o.group_id
UNION ALL
SELECT g.group_id, 'sql', CASE WHEN l.sessions > 0 THEN 'Stable' ELSE 'Empty' END, 0, '', NULL, coalesce(l.sessions, 0),
       greatest(g.polled_at, (SELECT max(o.committed_at) FROM kafka.sql_offsets o WHERE o.group_id = g.group_id))
FROM kafka.sql_groups g
-- As kafka.sql_group_lock() says. The lock's number is a hash: two groups may share one.
LEFT JOIN (SELECT k.objid, count(DISTINCT k.pid)::integer AS sessions FROM pg_catalog.pg_locks k
           WHERE k.locktype = 'advisory' AND k.classid = 1885825897 AND k.objsubid = 2 AND k.granted
             AND k.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
           GROUP BY k.objid) AS l ON l.objid = (hashtext(g.group_id)::bigint & 4294967295)::oid;
COMMENT ON VIEW kafka.groups IS
    'Consumer groups, also those that only ever committed offsets. While a classic group prepares a rebalance its last generation is shown.';
COMMENT ON COLUMN kafka.groups.kind IS 'classic (JoinGroup), consumer (KIP-848) or sql (kafka.poll).';
COMMENT ON COLUMN kafka.groups.members IS 'Of a group that SQL drives: transactions that have polled it and are open.';
COMMENT ON COLUMN kafka.groups.state IS 'Kafka''s word, as of what was written last.';
COMMENT ON COLUMN kafka.groups.generation IS 'Generation of a classic group, epoch of a consumer group.';
COMMENT ON COLUMN kafka.groups.protocol IS 'The assignor: what the classic members agreed on, or what most members of a consumer group asked for; NULL when none did.';
COMMENT ON COLUMN kafka.groups.written_at IS 'When it last changed.';

CREATE OR REPLACE VIEW kafka.group_members AS
SELECT g.group_id,
       m.value ->> 'member_id'                          AS member_id,
       m.value ->> 'group_instance_id'                  AS group_instance_id,
       m.value ->> 'client_id'                          AS client_id,
       ltrim(m.value ->> 'client_host', '/')            AS client_host,
       'classic'                                        AS protocol,
       (g.value ->> 'generation')::integer              AS generation,
       (m.value ->> 'session_timeout_ms')::integer      AS session_timeout_ms,
       (m.value ->> 'rebalance_timeout_ms')::integer    AS rebalance_timeout_ms,
       -- An array subquery keeps the order; a topic list that is not known is JSON's null.
       CASE jsonb_typeof(m.value -> 'topics') WHEN 'array'
            THEN ARRAY(SELECT jsonb_array_elements_text(m.value -> 'topics')) END AS topics,
       NULL::text                                       AS topic_regex
FROM kafka.group_records g, jsonb_array_elements(g.value -> 'members') AS m (value)
WHERE g.kind = 'classic'
UNION ALL
SELECT g.group_id, g.key, g.value ->> 'instance_id', g.value ->> 'client_id', ltrim(g.value ->> 'client_host', '/'),
       CASE WHEN jsonb_typeof(g.value -> 'classic') = 'object' THEN 'classic' ELSE 'consumer' END,
       (c.value ->> 'epoch')::integer, (g.value -> 'classic' ->> 'session_timeout_ms')::integer,
       (g.value ->> 'rebalance_timeout_ms')::integer,
       ARRAY(SELECT jsonb_array_elements_text(g.value -> 'topics')), nullif(g.value ->> 'regex', '')
FROM kafka.group_records g
LEFT JOIN kafka.group_records c ON c.group_id = g.group_id AND c.key = g.key AND c.kind = 'current'
WHERE g.kind = 'member';
COMMENT ON VIEW kafka.group_members IS
    'Members of consumer groups as of the last generation or epoch that was written; a member that joins appears when the rebalance is through.';
COMMENT ON COLUMN kafka.group_members.protocol IS 'classic (JoinGroup) or consumer (KIP-848); a group of the latter may have members of both.';
COMMENT ON COLUMN kafka.group_members.generation IS 'Generation of a classic group, member epoch otherwise; below 0: a static member that is away.';
COMMENT ON COLUMN kafka.group_members.session_timeout_ms IS 'NULL where the group''s config decides.';
COMMENT ON COLUMN kafka.group_members.topics IS 'Topics it subscribes to by name; NULL when the broker cannot read the subscription.';

CREATE OR REPLACE VIEW kafka.group_assignments AS
SELECT g.group_id, m.value ->> 'member_id' AS member_id, a.topic, p.partition::integer AS partition
FROM kafka.group_records g,
     jsonb_array_elements(g.value -> 'members') AS m (value),
     jsonb_each(CASE jsonb_typeof(m.value -> 'assigned') WHEN 'object' THEN m.value -> 'assigned' ELSE '{}' END) AS a (topic, partitions),
     jsonb_array_elements_text(a.partitions) AS p (partition)
WHERE g.kind = 'classic'
UNION ALL
SELECT g.group_id, g.key, t.name, p.partition::integer
FROM kafka.group_records g,
     jsonb_each(g.value -> 'assigned') AS a (topic, partitions),
     jsonb_array_elements_text(a.partitions) AS p (partition),
     kafka.topics t
WHERE g.kind = 'current' AND t.uuid = a.topic::uuid;
COMMENT ON VIEW kafka.group_assignments IS
    'Which member of a consumer group reads which partition. Classic groups of other protocol types than "consumer" (Connect) keep their assignments to themselves.';

CREATE OR REPLACE VIEW kafka.group_history AS
-- UNION: what was copied to the other table may be in both for a moment.
SELECT h.group_id, h.happened_at, h.event, h.generation, h.member_id, h.client_id, h.client_host, h.detail, h.entry
FROM (SELECT * FROM kafka.history_journal_0 UNION SELECT * FROM kafka.history_journal_1) AS h;
COMMENT ON VIEW kafka.group_history IS
    'What happened to consumer groups, and why they rebalanced. At least the last 100 lines of each group are kept, up to 20000 in all.';
COMMENT ON COLUMN kafka.group_history.entry IS 'Grows within a group: order by it.';
COMMENT ON COLUMN kafka.group_history.generation IS 'Generation or group epoch after the event.';
