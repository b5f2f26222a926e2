-- The journals, and what is set for consumer groups. {offsets}, {groups}, {history},
-- {transactions} and {relay} are the tables written now.

-- name: active_journals
SELECT journal, active FROM kafka.journals;

-- name: next_entry_block
SELECT nextval('kafka.journal_entries');

-- name: copy_offsets
COPY kafka.{offsets}
    (entry, group_id, topic_id, partition_id, committed_offset, leader_epoch, metadata, committed_at)
FROM STDIN (FORMAT binary);

-- name: copy_groups
COPY kafka.{groups} (entry, group_id, kind, key, value) FROM STDIN (FORMAT binary);

-- name: copy_history
COPY kafka.{history} (entry, group_id, event, generation, member_id, client_id, client_host, detail)
FROM STDIN (FORMAT binary);

-- name: copy_transactions
COPY kafka.{transactions} (entry, transactional_id, kind, key, value) FROM STDIN (FORMAT binary);

-- name: copy_relay
COPY kafka.{relay}
    (entry, chunk, share, shares, parts, system_identifier, previous_snapshot, snapshot, after_id, last_id, is_last, left_over, partitions,
     first_row, last_row, rows, topics, row_partitions, offsets, counts, maps)
FROM STDIN (FORMAT binary);

-- name: insert_offsets
INSERT INTO kafka.{offsets}
    (entry, group_id, topic_id, partition_id, committed_offset, leader_epoch, metadata, committed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: insert_groups
INSERT INTO kafka.{groups} (entry, group_id, kind, key, value) VALUES ($1, $2, $3, $4, $5);

-- name: insert_history
INSERT INTO kafka.{history} (entry, group_id, event, generation, member_id, client_id, client_host, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: insert_transactions
INSERT INTO kafka.{transactions} (entry, transactional_id, kind, key, value) VALUES ($1, $2, $3, $4, $5);

-- name: insert_relay
INSERT INTO kafka.{relay}
    (entry, chunk, share, shares, parts, system_identifier, previous_snapshot, snapshot, after_id, last_id, is_last, left_over, partitions,
     first_row, last_row, rows, topics, row_partitions, offsets, counts, maps)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21);

-- name: entry_exists
-- Did a transaction whose outcome is unknown commit? Its entries are there all or not at all. Reads the table, which is
-- bounded, as there is no index on entries: this is asked after a lost connection only.
SELECT EXISTS (SELECT FROM kafka.{journal} WHERE entry = $1);

-- name: load_groups
SELECT group_id, kind, key, value::text AS value FROM kafka.group_records ORDER BY entry;

-- name: load_offsets
SELECT group_id, topic_id, partition_id, committed_offset, coalesce(leader_epoch, -1) AS leader_epoch,
       metadata_bytes, round(extract(epoch FROM committed_at) * 1000)::bigint AS committed_at_ms
FROM kafka.client_offsets;

-- name: load_configs
SELECT group_id, configs::text AS configs FROM kafka.group_configs;

-- name: set_configs
INSERT INTO kafka.group_configs AS c (group_id, configs) VALUES ($1, $2::text::jsonb)
ON CONFLICT (group_id) DO UPDATE SET configs = excluded.configs;

-- name: remove_configs
DELETE FROM kafka.group_configs WHERE group_id = $1;
