-- Consumer groups: their journals, and what is set for them. {offsets}, {groups} and {history} are the tables written now.

-- name: active_journals
SELECT journal, active FROM kafka.journals;

-- name: next_entry_block
SELECT nextval('kafka.journal_entries');

-- name: insert_offsets
INSERT INTO kafka.{offsets}
    (entry, group_id, topic_id, partition_id, committed_offset, leader_epoch, metadata, committed_at)
SELECT e, g, t, p, o, l, m, timestamptz 'epoch' + a * interval '1 millisecond'
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::integer[], $5::bigint[], $6::integer[], $7::text[], $8::bigint[])
    AS u (e, g, t, p, o, l, m, a);

-- name: insert_state
-- Records of machines and lines of history.
WITH told AS (
    INSERT INTO kafka.{history} (entry, group_id, event, generation, member_id, client_id, client_host, detail)
    SELECT * FROM unnest($6::bigint[], $7::text[], $8::text[], $9::integer[], $10::text[], $11::text[], $12::text[],
                         $13::text[])
)
INSERT INTO kafka.{groups} (entry, group_id, kind, key, value)
SELECT e, g, k, y, v::jsonb FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]) AS u (e, g, k, y, v);

-- name: entry_exists
-- Did a transaction whose outcome is unknown commit? Its entries are there all or not at all. Reads the table, which is
-- bounded, as there is no index on entries: this is asked after a lost connection only.
SELECT EXISTS (SELECT FROM kafka.{journal} WHERE entry = $1);

-- name: load_groups
SELECT group_id, kind, key, value::text AS value FROM kafka.group_records ORDER BY entry;

-- name: load_offsets
SELECT group_id, topic_id, partition_id, committed_offset, coalesce(leader_epoch, -1), metadata,
       round(extract(epoch FROM committed_at) * 1000)::bigint
FROM kafka.consumer_offsets;

-- name: load_configs
SELECT group_id, configs::text AS configs FROM kafka.group_configs;

-- name: set_configs
INSERT INTO kafka.group_configs AS c (group_id, configs) VALUES ($1, $2::text::jsonb)
ON CONFLICT (group_id) DO UPDATE SET configs = excluded.configs;

-- name: remove_configs
DELETE FROM kafka.group_configs WHERE group_id = $1;
