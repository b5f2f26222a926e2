-- Quotas of clients.

-- name: all
SELECT entity::text AS entity, name, value FROM kafka.client_quotas;

-- name: change
-- The quotas $1, $2 go; those of $3, $4 have the values $5. Locks: their rows.
WITH gone AS (
    DELETE FROM kafka.client_quotas q
    USING unnest($1::text[], $2::text[]) AS u (entity, name)
    WHERE q.entity = u.entity::jsonb AND q.name = u.name
)
INSERT INTO kafka.client_quotas AS q (entity, name, value)
SELECT u.entity::jsonb, u.name, u.value FROM unnest($3::text[], $4::text[], $5::double precision[]) AS u (entity, name, value)
ORDER BY u.entity, u.name
ON CONFLICT (entity, name) DO UPDATE SET value = EXCLUDED.value WHERE q.value <> EXCLUDED.value;
