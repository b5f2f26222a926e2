-- What the janitor looks for. Each statement finds work by what the tables say, so that a janitor that was killed goes on
-- where it stopped.

-- name: topics_without_view
-- Internal topics get none: names that begin with __, and what Kafka Streams keeps for itself.
SELECT id FROM kafka.topics
WHERE view_name IS NULL AND name !~ '^__|-(changelog|repartition)$' AND NOT (id = ANY ($1::bigint[]))
ORDER BY id LIMIT $2;

-- name: create_views
-- Locks: the topics' rows in order of id, against their deletion.
SELECT count(kafka.create_topic_view(t.id)) FROM (SELECT unnest($1::bigint[]) AS id) AS t;

-- name: views_of_deleted_topics
SELECT id, view_name FROM kafka.deleted_topics
WHERE view_name IS NOT NULL AND NOT (id = ANY ($1::bigint[])) ORDER BY id LIMIT $2;

-- name: drop_views
-- Locks: the deleted topics' rows, each before its view. is_gone is false when a user's view stands on it.
SELECT d.id, kafka.drop_topic_view(d.view_name) AS is_gone
FROM (SELECT id, view_name FROM kafka.deleted_topics WHERE id = ANY ($1::bigint[]) AND view_name IS NOT NULL
      ORDER BY id FOR UPDATE) AS d;

-- name: views_are_gone
UPDATE kafka.deleted_topics SET view_name = NULL WHERE id = ANY ($1::bigint[]);

-- name: topic_to_free
-- A deleted topic that still holds something; a row whose view alone is left waits for that.
SELECT d.id, d.view_name, EXISTS (SELECT FROM kafka.series s WHERE s.id = d.id) AS has_series
FROM kafka.deleted_topics d
WHERE NOT (d.id = ANY ($1::bigint[]))
  AND (d.view_name IS NULL OR EXISTS (SELECT FROM kafka.series s WHERE s.id = d.id)
       OR EXISTS (SELECT FROM kafka.extents e WHERE e.topic = d.id))
ORDER BY d.id LIMIT 1;

-- name: shared_segments_of_topic
-- Segments of series 0 that a topic has rows in; the primary key of kafka.extents begins with the topic.
SELECT DISTINCT e.segment FROM kafka.extents e JOIN kafka.segments g ON g.series = e.series AND g.segment = e.segment
WHERE e.topic = $1 AND e.series = 0 AND g.state NOT IN ('freed', 'detached') ORDER BY e.segment;

-- name: delete_rows
-- A chunk of a topic's rows; index (topic, partition, base_offset).
DELETE FROM kafka.{leaf} WHERE ctid = ANY (ARRAY(SELECT l.ctid FROM kafka.{leaf} l WHERE l.topic = $1 LIMIT $2));

-- name: forget_topic
-- All that is kept by topic; rows are locked table by table, and nobody else touches those of a deleted topic.
WITH extents AS (DELETE FROM kafka.extents WHERE topic = $1),
     epochs AS (DELETE FROM kafka.leader_epochs WHERE topic = $1),
     starts AS (DELETE FROM kafka.log_starts WHERE topic = $1),
     checkpoints AS (DELETE FROM kafka.partition_checkpoints WHERE topic = $1)
DELETE FROM kafka.deleted_topics WHERE id = $1 AND view_name IS NULL;

-- name: full_segments
-- Active segments that have reached their size or, not being empty, their age. A topic's configs count in its own series.
SELECT s.id AS series, s.active_segment AS segment
FROM kafka.series s
JOIN kafka.segments g ON g.series = s.id AND g.segment = s.active_segment
LEFT JOIN kafka.topics t ON t.id = s.id
CROSS JOIN LATERAL (SELECT to_regclass(format('kafka.log_%s_%s', s.id, s.active_segment)) AS leaf) AS l
WHERE (s.id = 0 OR t.id IS NOT NULL)
  AND (pg_table_size(l.leaf) >= coalesce((t.configs ->> 'segment.bytes')::bigint, $1)
       OR (pg_relation_size(l.leaf) > 0
           AND extract(epoch FROM clock_timestamp() - g.created_at) * 1000
               >= coalesce((t.configs ->> 'segment.ms')::bigint, $2)))
ORDER BY s.id;

-- name: superseded_segments
-- Still marked active though a newer one is: the lanes have not all said yet that they have left it.
SELECT s.id AS series, g.segment, s.active_segment
FROM kafka.series s JOIN kafka.segments g ON g.series = s.id
WHERE g.state = 'active' AND g.segment < s.active_segment ORDER BY s.id, g.segment;

-- name: sealed_segments
SELECT series, segment FROM kafka.segments WHERE state = 'sealed' ORDER BY sealed_at LIMIT 1;

-- name: unmoved_topics
-- Topics whose own series was made and that have not moved into it.
SELECT t.id FROM kafka.topics t JOIN kafka.series s ON s.id = t.id WHERE t.series = 0;

-- name: topic_place
SELECT t.series, (SELECT s.active_segment FROM kafka.series s WHERE s.id = t.series) AS segment
FROM kafka.topics t WHERE t.id = $1;

-- name: active_segment
SELECT active_segment FROM kafka.series WHERE id = $1;
