-- What is granted on the views of topics, for pg_kafka.authorizer = grants. GRANT fires no trigger, so it is looked at each second.

-- name: sign
-- Changes when what the other statements read does. A GRANT writes the view's row of pg_class, a membership one of pg_auth_members.
SELECT (SELECT count(*) || ' ' || coalesce(sum(c.xmin::text::bigint), 0) FROM pg_class c WHERE c.relnamespace = 'topics'::regnamespace)
    || ' ' || (SELECT count(*) || ' ' || coalesce(sum(m.xmin::text::bigint), 0) FROM pg_auth_members m)
    || ' ' || (SELECT coalesce(sum(hashtextextended(r.oid || r.rolname || r.rolsuper || r.rolinherit, 0)), 0) FROM pg_roles r)
    || ' ' || (SELECT n.xmin FROM pg_namespace n WHERE n.nspname = 'topics') AS sign;

-- name: topics
-- Of each topic with a view: which of the rights below it has.
SELECT t.name, c.relowner, coalesce(c.relacl, acldefault('r', c.relowner))::text AS acl
FROM kafka.topics t JOIN pg_class c ON c.relnamespace = 'topics'::regnamespace AND c.relname = t.view_name AND c.relkind = 'v';

-- name: rights
-- What the different lists of rights say. Few: most topics have the same ones.
SELECT d.acl::text AS acl,
       coalesce(array_agg(a.grantee) FILTER (WHERE a.privilege_type = 'SELECT'), '{}') AS select,
       coalesce(array_agg(a.grantee) FILTER (WHERE a.privilege_type = 'INSERT'), '{}') AS insert
FROM (SELECT DISTINCT coalesce(c.relacl, acldefault('r', c.relowner)) AS acl
      FROM pg_class c WHERE c.relnamespace = 'topics'::regnamespace AND c.relkind = 'v') AS d
CROSS JOIN LATERAL aclexplode(d.acl) AS a
GROUP BY d.acl;

-- name: schema
-- Who owns the schema of the views and may create in it.
SELECT n.nspowner AS owner,
       coalesce((SELECT array_agg(a.grantee) FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
                 WHERE a.privilege_type = 'CREATE'), '{}') AS creators,
       (SELECT r.oid FROM pg_roles r WHERE r.rolname = 'pg_read_all_data') AS read_all,
       (SELECT r.oid FROM pg_roles r WHERE r.rolname = 'pg_write_all_data') AS write_all
FROM pg_namespace n WHERE n.nspname = 'topics';

-- name: roles
-- Of each role: whose privileges it has, of those to whom anything is granted.
WITH named AS MATERIALIZED (
    SELECT DISTINCT a.grantee AS oid
    FROM (SELECT DISTINCT coalesce(c.relacl, acldefault('r', c.relowner)) AS acl
          FROM pg_class c WHERE c.relnamespace = 'topics'::regnamespace AND c.relkind = 'v') AS d
    CROSS JOIN LATERAL aclexplode(d.acl) AS a
    WHERE a.grantee <> 0
    UNION SELECT c.relowner FROM pg_class c WHERE c.relnamespace = 'topics'::regnamespace AND c.relkind = 'v'
    UNION SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'topics'
    UNION SELECT a.grantee FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) AS a WHERE n.nspname = 'topics' AND a.grantee <> 0
    UNION SELECT r.oid FROM pg_roles r WHERE r.rolname IN ('pg_read_all_data', 'pg_write_all_data')
)
SELECT r.rolname AS name, r.rolsuper AS is_superuser, coalesce(array_agg(n.oid) FILTER (WHERE n.oid IS NOT NULL), '{}') AS has
FROM pg_roles r LEFT JOIN named n ON n.oid = r.oid OR pg_has_role(r.oid, n.oid, 'USAGE')
GROUP BY r.oid, r.rolname, r.rolsuper;
