-- Access control lists by SQL.

CREATE OR REPLACE FUNCTION kafka.acl_word(what text, given text, known text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- Kafka's tools write TransactionalId and DescribeConfigs.
    plain text := translate(upper(btrim(given)), '_- ', '');
    word text;
BEGIN
    FOREACH word IN ARRAY known LOOP
        IF translate(word, '_', '') = plain THEN
            RETURN word;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'unknown % %', what, coalesce(quote_literal(left(given, 100)), 'NULL')
        USING ERRCODE = 'invalid_parameter_value', HINT = format('It is one of %s.', array_to_string(known, ', '));
END
$$;
COMMENT ON FUNCTION kafka.acl_word(text, text, text[]) IS 'A word of an ACL as kafka.acls has it, however it is written; raises invalid_parameter_value when it is none.';

CREATE OR REPLACE FUNCTION kafka.acl_resource_type(given text) RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT kafka.acl_word('resource type', given, ARRAY['TOPIC', 'GROUP', 'CLUSTER', 'TRANSACTIONAL_ID', 'DELEGATION_TOKEN', 'USER']);
END;
COMMENT ON FUNCTION kafka.acl_resource_type(text) IS 'As kafka.acl_word().';

CREATE OR REPLACE FUNCTION kafka.acl_operation(given text) RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT kafka.acl_word('operation', given, ARRAY[
        'ALL', 'READ', 'WRITE', 'CREATE', 'DELETE', 'ALTER', 'DESCRIBE', 'CLUSTER_ACTION', 'DESCRIBE_CONFIGS', 'ALTER_CONFIGS',
        'IDEMPOTENT_WRITE', 'CREATE_TOKENS', 'DESCRIBE_TOKENS', 'TWO_PHASE_COMMIT']);
END;
COMMENT ON FUNCTION kafka.acl_operation(text) IS 'As kafka.acl_word().';

CREATE OR REPLACE FUNCTION kafka.create_acl(
    principal text, operation text, resource_type text, resource_name text DEFAULT NULL, pattern_type text DEFAULT 'literal',
    host text DEFAULT '*', permission text DEFAULT 'allow'
) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    type text := kafka.acl_resource_type(resource_type);
    pattern text := kafka.acl_word('pattern type', pattern_type, ARRAY['LITERAL', 'PREFIXED']);
    name text := CASE WHEN type = 'CLUSTER' THEN coalesce(resource_name, 'kafka-cluster') ELSE resource_name END;
BEGIN
    IF principal IS NULL OR principal !~ '^[^:]+:' OR octet_length(principal) > 500 THEN
        RAISE EXCEPTION 'invalid principal %', coalesce(quote_literal(left(principal, 100)), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is a type, a colon and a name of at most 500 bytes in all, as in User:alice. User:* is everybody.';
    ELSIF type = 'CLUSTER' AND name <> 'kafka-cluster' THEN
        RAISE EXCEPTION 'there is no cluster %', quote_literal(left(name, 100))
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The only name of a CLUSTER is kafka-cluster; leave it out.';
    ELSIF name IS NULL OR name = '' OR octet_length(name) > 1000 THEN
        RAISE EXCEPTION 'invalid resource name %', coalesce(quote_literal(left(name, 100)), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It has from 1 to 1000 bytes; * stands for all of the type.';
    ELSIF host IS NULL OR octet_length(host) > 255 THEN
        RAISE EXCEPTION 'invalid host %', coalesce(quote_literal(left(host, 100)), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is the address that a client connects from, or * for any.';
    END IF;
    INSERT INTO kafka.acls AS a (resource_type, resource_name, pattern_type, principal, host, operation, permission)
    VALUES (type, name, pattern, create_acl.principal, create_acl.host, kafka.acl_operation(create_acl.operation),
            kafka.acl_word('permission', create_acl.permission, ARRAY['ALLOW', 'DENY']))
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION kafka.create_acl(text, text, text, text, text, text, text) IS
    'Create an ACL; false when it is there already. kafka.create_acl(''User:alice'', ''read'', ''topic'', ''orders''). Brokers follow within a second.';

CREATE OR REPLACE FUNCTION kafka.drop_acls(
    principal text DEFAULT NULL, operation text DEFAULT NULL, resource_type text DEFAULT NULL, resource_name text DEFAULT NULL,
    pattern_type text DEFAULT NULL, host text DEFAULT NULL, permission text DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    type text := CASE WHEN resource_type IS NOT NULL THEN kafka.acl_resource_type(resource_type) END;
    doing text := CASE WHEN operation IS NOT NULL THEN kafka.acl_operation(operation) END;
    pattern text := CASE WHEN pattern_type IS NOT NULL THEN kafka.acl_word('pattern type', pattern_type, ARRAY['LITERAL', 'PREFIXED']) END;
    saying text := CASE WHEN permission IS NOT NULL THEN kafka.acl_word('permission', permission, ARRAY['ALLOW', 'DENY']) END;
    dropped bigint;
BEGIN
    IF num_nonnulls(principal, operation, resource_type, resource_name, pattern_type, host, permission) = 0 THEN
        RAISE EXCEPTION 'no ACLs are named'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'DELETE FROM kafka.acls removes all of them.';
    END IF;
    DELETE FROM kafka.acls a
    WHERE (drop_acls.principal IS NULL OR a.principal = drop_acls.principal)
      AND (doing IS NULL OR a.operation = doing)
      AND (type IS NULL OR a.resource_type = type)
      AND (drop_acls.resource_name IS NULL OR a.resource_name = drop_acls.resource_name)
      AND (pattern IS NULL OR a.pattern_type = pattern)
      AND (drop_acls.host IS NULL OR a.host = drop_acls.host)
      AND (saying IS NULL OR a.permission = saying);
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION kafka.drop_acls(text, text, text, text, text, text, text) IS
    'Drop all ACLs that are as said; NULL is any. Returns how many. kafka.drop_acls(principal => ''User:alice''). Brokers follow within a second.';
