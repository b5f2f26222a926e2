-- What is known of PostgreSQL's roles, where clients of Kafka log in as them.

-- name: described
-- The roles with these names, as far as they are there. What the broker's role may not see of passwords is NULL.
SELECT r.rolname::pg_catalog.text AS name, r.oid::pg_catalog.int8 AS oid, r.rolcanlogin AS may_log_in, r.rolsuper AS is_superuser,
       COALESCE(r.rolvaliduntil <= pg_catalog.now(), false) AS is_over, r.rolname = SESSION_USER AS is_own,
       NULL::pg_catalog.bytea AS password
FROM pg_catalog.pg_roles AS r
WHERE r.rolname = ANY ($1::pg_catalog.name[]);

-- name: described_with_passwords
-- The same for a role that may read pg_authid: a superuser, or one with GRANT SELECT ON pg_authid.
SELECT r.rolname::pg_catalog.text AS name, r.oid::pg_catalog.int8 AS oid, r.rolcanlogin AS may_log_in, r.rolsuper AS is_superuser,
       COALESCE(r.rolvaliduntil <= pg_catalog.now(), false) AS is_over, r.rolname = SESSION_USER AS is_own,
       pg_catalog.sha256(pg_catalog.convert_to(r.rolpassword, 'UTF8')) AS password
FROM pg_catalog.pg_authid AS r
WHERE r.rolname = ANY ($1::pg_catalog.name[]);

-- name: may_see_passwords
SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT');

-- name: samples
-- A few roles that may log in to this database, and the broker's own.
SELECT r.rolname::pg_catalog.text AS name
FROM pg_catalog.pg_roles AS r
WHERE r.rolcanlogin AND NOT r.rolsuper AND r.rolname <> SESSION_USER
  AND pg_catalog.has_database_privilege(r.oid, pg_catalog.current_database(), 'CONNECT')
ORDER BY r.rolname
LIMIT $1;
