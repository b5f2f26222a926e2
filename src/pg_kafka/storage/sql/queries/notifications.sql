-- Topics whose new records are told by NOTIFY.

-- name: forget_deleted
DELETE FROM kafka.topic_notifications n WHERE NOT EXISTS (SELECT FROM kafka.topics t WHERE t.id = n.topic_id);

-- name: wanted
SELECT n.topic_id FROM kafka.topic_notifications n;

-- name: notify
SELECT pg_notify('kafka_topic_' || t.id, '') FROM unnest($1::bigint[]) AS t (id);
