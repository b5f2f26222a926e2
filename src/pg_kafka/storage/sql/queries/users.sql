-- Users who log in by SASL.

-- name: all
SELECT name, mechanism, iterations, salt, stored_key, server_key FROM kafka.user_keys;

-- name: some
-- Counts on the primary key.
SELECT name, mechanism, iterations, salt, stored_key, server_key FROM kafka.user_keys WHERE name = ANY ($1::text[]);

-- name: secret
SELECT secret FROM kafka.user_secret;

-- name: described
-- Without keys; $1 NULL is all users. Counts on the primary key.
SELECT name, mechanism, iterations FROM kafka.user_keys WHERE $1::text[] IS NULL OR name = ANY ($1::text[]);

-- name: alter
-- Remove the keys of the users $1 with the mechanisms $2, and set those of the others; what has been removed. A user is not in both.
-- Locks: their rows, in no order: whoever else changes the same users at this moment may have to ask again.
WITH new AS (
    INSERT INTO kafka.user_keys AS k (name, mechanism, iterations, salt, stored_key, server_key)
    SELECT * FROM unnest($3::text[], $4::text[], $5::integer[], $6::bytea[], $7::bytea[], $8::bytea[])
    ON CONFLICT (name, mechanism) DO UPDATE
    SET iterations = EXCLUDED.iterations, salt = EXCLUDED.salt, stored_key = EXCLUDED.stored_key,
        server_key = EXCLUDED.server_key, changed_at = EXCLUDED.changed_at
)
DELETE FROM kafka.user_keys k USING unnest($1::text[], $2::text[]) AS d (name, mechanism)
WHERE k.name = d.name AND k.mechanism = d.mechanism
RETURNING k.name;

-- name: listed
SELECT name, mechanism, iterations, changed_at FROM kafka.users ORDER BY name, mechanism;

-- name: create_user
SELECT kafka.create_user($1, $2, $3);

-- name: alter_user
SELECT kafka.alter_user($1, $2, $3);

-- name: drop_user
SELECT kafka.drop_user($1, $2);
