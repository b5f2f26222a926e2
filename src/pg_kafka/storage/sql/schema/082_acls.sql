-- Access control lists: who may do what to which resource. Every broker keeps all of them in memory and follows changes.

CREATE TABLE kafka.acls (
    resource_type  text NOT NULL CHECK (resource_type IN ('TOPIC', 'GROUP', 'CLUSTER', 'TRANSACTIONAL_ID', 'DELEGATION_TOKEN', 'USER')),
    resource_name  text NOT NULL CHECK (resource_name <> '' AND octet_length(resource_name) <= 1000),
    pattern_type   text NOT NULL DEFAULT 'LITERAL' CHECK (pattern_type IN ('LITERAL', 'PREFIXED')),
    principal      text NOT NULL CHECK (principal ~ '^[^:]+:' AND octet_length(principal) <= 500),
    host           text NOT NULL DEFAULT '*' CHECK (octet_length(host) <= 255),
    operation      text NOT NULL CHECK (operation IN (
        'ALL', 'READ', 'WRITE', 'CREATE', 'DELETE', 'ALTER', 'DESCRIBE', 'CLUSTER_ACTION', 'DESCRIBE_CONFIGS', 'ALTER_CONFIGS',
        'IDEMPOTENT_WRITE', 'CREATE_TOKENS', 'DESCRIBE_TOKENS', 'TWO_PHASE_COMMIT')),
    permission     text NOT NULL DEFAULT 'ALLOW' CHECK (permission IN ('ALLOW', 'DENY')),
    -- The texts together stay below what an entry of an index may have.
    PRIMARY KEY (resource_type, resource_name, pattern_type, principal, host, operation, permission),
    CONSTRAINT one_cluster CHECK (resource_type <> 'CLUSTER' OR resource_name = 'kafka-cluster')
);
COMMENT ON TABLE kafka.acls IS
    'Access control lists, in the words that Kafka''s tools print. Brokers with pg_kafka.authorizer = acl or grants follow changes within a second. kafka.create_acl() and kafka.drop_acls() change them with checks.';
COMMENT ON COLUMN kafka.acls.resource_name IS 'A name, * for all of the type, or with pattern_type PREFIXED how names begin. The cluster is called kafka-cluster.';
COMMENT ON COLUMN kafka.acls.principal IS 'User:name; User:* is everybody.';
COMMENT ON COLUMN kafka.acls.host IS 'The address that a client connects from; * is any.';
COMMENT ON COLUMN kafka.acls.permission IS 'An ACL that denies wins over all that allow.';

-- One change for each statement, however many rows it has: brokers read the whole list again anyway.
CREATE FUNCTION kafka.note_acls() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO kafka.catalogue_changes (kind, name, what) VALUES ('acl', '*', 'deleted');
    ELSE
        INSERT INTO kafka.catalogue_changes (kind, name, what)
        SELECT 'acl',
               CASE WHEN count(*) = 1
                    THEN min(format('%s %s %s on %s %s %s from %s', n.principal, n.permission, n.operation, n.pattern_type,
                                    n.resource_type, n.resource_name, n.host))
                    ELSE count(*) || ' of ' || CASE count(DISTINCT n.principal) WHEN 1 THEN min(n.principal) ELSE 'several principals' END END,
               CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'UPDATE' THEN 'changed' ELSE 'deleted' END
        FROM noted n HAVING count(*) > 0;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.note_acls() IS 'Trigger of kafka.acls: notes what one statement has done, an ACL alone as a whole.';

CREATE TRIGGER note_created AFTER INSERT ON kafka.acls
REFERENCING NEW TABLE AS noted FOR EACH STATEMENT EXECUTE FUNCTION kafka.note_acls();
CREATE TRIGGER note_changed AFTER UPDATE ON kafka.acls
REFERENCING NEW TABLE AS noted FOR EACH STATEMENT EXECUTE FUNCTION kafka.note_acls();
CREATE TRIGGER note_deleted AFTER DELETE ON kafka.acls
REFERENCING OLD TABLE AS noted FOR EACH STATEMENT EXECUTE FUNCTION kafka.note_acls();
CREATE TRIGGER note_emptied AFTER TRUNCATE ON kafka.acls
FOR EACH STATEMENT EXECUTE FUNCTION kafka.note_acls();
