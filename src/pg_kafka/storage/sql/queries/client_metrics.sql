-- Subscriptions to metrics of clients.

-- name: all
SELECT name, configs::text AS configs FROM kafka.client_metrics;

-- name: set
-- Locks: the row.
INSERT INTO kafka.client_metrics AS c (name, configs) VALUES ($1, $2::text::jsonb)
ON CONFLICT (name) DO UPDATE SET configs = EXCLUDED.configs WHERE c.configs IS DISTINCT FROM EXCLUDED.configs;

-- name: remove
DELETE FROM kafka.client_metrics WHERE name = $1;
