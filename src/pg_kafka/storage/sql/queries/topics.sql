-- The catalogue of topics.

-- name: all
SELECT id, name, uuid, partitions, configs::text AS configs, series, keeps_batches, sql_asked_at IS NOT NULL AS is_asked FROM kafka.topics;

-- name: some
SELECT id, name, uuid, partitions, configs::text AS configs, series, keeps_batches, sql_asked_at IS NOT NULL AS is_asked FROM kafka.topics WHERE id = ANY ($1::bigint[]);

-- name: create
-- One row for each topic that was created; a name that exists gives none.
INSERT INTO kafka.topics (name, partitions, configs)
SELECT n, p, c::jsonb FROM unnest($1::text[], $2::integer[], $3::text[]) AS u (n, p, c)
ON CONFLICT (name) DO NOTHING
RETURNING id, name, uuid, partitions, configs::text AS configs, series, keeps_batches, sql_asked_at IS NOT NULL AS is_asked;

-- name: delete
-- Hide topics at once. A trigger puts them into kafka.deleted_topics, and the janitor frees what they hold.
DELETE FROM kafka.topics WHERE id = ANY ($1::bigint[]);

-- name: grow
UPDATE kafka.topics SET partitions = $2 WHERE id = $1 AND partitions < $2 RETURNING partitions;

-- name: set_configs
-- Unless somebody has changed them since they were $3.
UPDATE kafka.topics SET configs = $2::text::jsonb WHERE id = $1 AND configs = $3::text::jsonb RETURNING id;

-- name: set_series
UPDATE kafka.topics SET series = $2 WHERE id = $1;

-- name: newest_change
-- The number of the newest change of the catalogue; 0 before the first. Counts on the primary key.
SELECT coalesce(max(number), 0) AS number FROM kafka.catalogue_changes;
