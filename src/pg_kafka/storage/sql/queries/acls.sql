-- Access control lists.

-- name: load
SELECT resource_type, resource_name, pattern_type, principal, host, operation, permission FROM kafka.acls;

-- name: sign
-- Changes when the table does, for those who do not follow changes of the catalogue.
SELECT count(*) || ' ' || coalesce(sum(a.xmin::text::bigint), 0) AS sign FROM kafka.acls a;

-- name: create
-- Those that are there already are left alone. In the order of the primary key, so that two that create the same do not block each other.
INSERT INTO kafka.acls (resource_type, resource_name, pattern_type, principal, host, operation, permission)
SELECT n.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS n
ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT DO NOTHING;

-- name: delete
-- Returns those that were there.
DELETE FROM kafka.acls a
USING unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS n (resource_type, resource_name, pattern_type, principal, host, operation, permission)
WHERE a.resource_type = n.resource_type AND a.resource_name = n.resource_name AND a.pattern_type = n.pattern_type
  AND a.principal = n.principal AND a.host = n.host AND a.operation = n.operation AND a.permission = n.permission
RETURNING a.resource_type, a.resource_name, a.pattern_type, a.principal, a.host, a.operation, a.permission;
