-- The catalogue of topics.

-- name: all
SELECT id, name, uuid, partitions, configs::text AS configs, series FROM kafka.topics;

-- name: create
-- One row for each topic that was created; a name that exists gives none.
INSERT INTO kafka.topics (name, partitions, configs)
SELECT n, p, c::jsonb FROM unnest($1::text[], $2::integer[], $3::text[]) AS u (n, p, c)
ON CONFLICT (name) DO NOTHING
RETURNING id, name, uuid, partitions, configs::text AS configs, series;

-- name: delete
-- Hide topics at once; what they hold is freed by the janitor.
WITH gone AS (DELETE FROM kafka.topics WHERE id = ANY ($1::bigint[]) RETURNING id, name, series, view_name)
INSERT INTO kafka.deleted_topics (id, name, series, view_name) SELECT id, name, series, view_name FROM gone;

-- name: grow
UPDATE kafka.topics SET partitions = $2 WHERE id = $1 AND partitions < $2 RETURNING partitions;

-- name: set_series
UPDATE kafka.topics SET series = $2 WHERE id = $1;
