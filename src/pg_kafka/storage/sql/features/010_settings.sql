-- Configs by SQL: of brokers, of topics, of consumer groups. What a value may be is told by kafka.config_keys, which the program writes.

CREATE OR REPLACE FUNCTION kafka.config_fault(scope text, name text, value text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    k kafka.config_keys;
    given text := btrim(value, E' \t\n\r\f\v');
    items text[];
    number numeric;
BEGIN
    SELECT * INTO k FROM kafka.config_keys c WHERE c.scope = config_fault.scope AND c.name = config_fault.name;
    IF NOT FOUND THEN
        RETURN format('unknown %s config "%s"', scope, name);
    END IF;
    IF k.type IN ('short', 'int', 'long', 'double') THEN
        -- A megabyte of digits is a number that takes seconds to read.
        IF length(given) > 100 OR given !~ (CASE k.type WHEN 'double' THEN '^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]{1,4})?$'
                                               ELSE '^[+-]?[0-9]+$' END) THEN
            RETURN format('%s is not a number of type %s', quote_literal(left(given, 100)), k.type);
        END IF;
        number := given::numeric;
        IF abs(number) > 1.7976931348623157e308
           OR k.type = 'short' AND number NOT BETWEEN -32768 AND 32767
           OR k.type = 'int' AND number NOT BETWEEN -2147483648 AND 2147483647
           OR k.type = 'long' AND number NOT BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
            RETURN format('%s is not a number of type %s', given, k.type);
        END IF;
        IF number IS DISTINCT FROM k.also_allowed AND number < k.minimum THEN
            RETURN format('%s must be at least %s, not %s', name, k.minimum, given);
        ELSIF number IS DISTINCT FROM k.also_allowed AND number > k.maximum THEN
            RETURN format('%s must be no more than %s, not %s', name, k.maximum, given);
        END IF;
    ELSIF k.type = 'boolean' AND lower(given) NOT IN ('true', 'false') THEN
        RETURN format('%s must be true or false, not %L', name, given);
    ELSIF k.type = 'list' THEN
        items := ARRAY(SELECT btrim(i.item, E' \t\n\r\f\v') FROM unnest(string_to_array(given, ',')) WITH ORDINALITY AS i (item, n) ORDER BY i.n);
        IF '' = ANY (items) THEN
            RETURN format('%s must not hold empty values', name);
        ELSIF cardinality(k.choices) > 0 AND NOT items <@ k.choices THEN
            RETURN format('%s must be some of %s, not %L', name, array_to_string(k.choices, ', '), given);
        ELSIF k.must_be_set AND (cardinality(items) = 0
                                 OR cardinality(items) > (SELECT count(DISTINCT i.item) FROM unnest(items) AS i (item))) THEN
            RETURN format('%s must name something, and nothing twice', name);
        END IF;
        given := array_to_string(items, ',');
    ELSIF cardinality(k.choices) > 0 AND NOT given = ANY (k.choices) THEN
        RETURN format('%s must be one of %s, not %L', name, array_to_string(k.choices, ', '), given);
    END IF;
    IF k.pattern <> '' AND given !~ ('^(' || k.pattern || ')$') THEN
        RETURN format('%s must be %s', name, k.form);
    END IF;
    IF k.effect = 'refused' AND lower(given) <> k.default_value THEN
        RETURN k.refused;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.config_fault(text, text, text) IS
    'What is wrong with a value of a config, in a sentence; NULL when nothing is. The first argument is topic, broker, group or client metrics.';

CREATE OR REPLACE FUNCTION kafka.refuse_config(scope text, name text, value text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    fault text := kafka.config_fault(scope, name, value);
BEGIN
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION '%', fault
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('SELECT * FROM kafka.config_keys WHERE scope = %L tells what there is and what it may be.', scope);
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.refuse_config(text, text, text) IS 'Raises invalid_parameter_value when kafka.config_fault() finds something.';

CREATE OR REPLACE FUNCTION kafka.set_config(name text, value text, node_id integer DEFAULT NULL) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known text;
    kafka_name text;
BEGIN
    -- Kafka's name, num.partitions, means the same as pg_kafka.num_partitions.
    SELECT k.name INTO kafka_name FROM kafka.config_keys k
    WHERE k.scope = 'broker'
      AND translate(regexp_replace(k.name, '^pg_kafka[.]', ''), '.', '_')
        = translate(regexp_replace(set_config.name, '^pg_kafka[.]', ''), '.', '_');
    IF kafka_name IS NULL THEN
        RAISE EXCEPTION 'unknown setting "%"', name
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT * FROM kafka.config_keys WHERE scope = ''broker'' tells what there is.';
    END IF;
    known := 'pg_kafka.' || translate(regexp_replace(kafka_name, '^pg_kafka[.]', ''), '.', '_');
    IF value IS NULL THEN
        DELETE FROM kafka.settings s WHERE s.name = known AND s.node_id = coalesce(set_config.node_id, 0);
    ELSE
        PERFORM kafka.refuse_config('broker', kafka_name, value);
        INSERT INTO kafka.settings AS s (name, value, node_id) VALUES (known, set_config.value, coalesce(set_config.node_id, 0))
        ON CONFLICT ON CONSTRAINT settings_pkey DO UPDATE SET value = EXCLUDED.value;
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION kafka.set_config(text, text, integer) IS
    'Set a broker setting for all brokers of this database, or for the one with this node id; NULL removes it. Running brokers follow within seconds where kafka.config_keys.is_dynamic, the others take it when they start. Takes Kafka''s names and those with pg_kafka., and refuses what no broker knows or could use.';

CREATE OR REPLACE FUNCTION kafka.broker_value(key kafka.config_keys) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN s.unit_ms = 1 THEN s.value WHEN s.value::bigint < 0 THEN '-1' ELSE (s.value::bigint * s.unit_ms)::text END
    FROM (SELECT y.n, b.unit_ms, CASE WHEN c.name IS NULL THEN b.default_value ELSE c.value END AS value
          FROM unnest((key).synonyms) WITH ORDINALITY AS y (name, n)
          JOIN kafka.config_keys b ON b.scope = 'broker' AND b.name = y.name
          LEFT JOIN kafka.broker_configs c
              ON c.name = y.name AND c.node_id = (SELECT r.node_id FROM kafka.brokers r WHERE r.status IN ('live', 'stopped')
                                                  ORDER BY r.status = 'live' DESC, r.incarnation DESC LIMIT 1)) AS s
    WHERE s.value IS NOT NULL ORDER BY s.n LIMIT 1
$$;
COMMENT ON FUNCTION kafka.broker_value(kafka.config_keys) IS
    'What the broker that runs, or ran last, has for a config of topics or groups that set none; NULL when no broker''s config is behind it.';

CREATE OR REPLACE VIEW kafka.topic_configs AS
WITH keys AS MATERIALIZED (
    SELECT k.name, k.default_value, k.effect, k.documentation, kafka.broker_value(k) AS broker_value
    FROM kafka.config_keys k WHERE k.scope = 'topic'
)
SELECT t.name AS topic, k.name,
       CASE WHEN o.value IS NOT NULL THEN o.value ELSE coalesce(k.broker_value, k.default_value) END AS value,
       CASE WHEN o.value IS NOT NULL THEN 'topic' WHEN k.broker_value <> k.default_value THEN 'broker' ELSE 'default' END AS source,
       k.default_value, k.effect, k.documentation
FROM kafka.topics t
CROSS JOIN keys k
-- What the broker could not use is not in force.
CROSS JOIN LATERAL (SELECT CASE WHEN t.configs ? k.name AND kafka.config_fault('topic', k.name, t.configs ->> k.name) IS NULL
                                THEN t.configs ->> k.name END AS value) AS o;
COMMENT ON VIEW kafka.topic_configs IS 'Every config of every topic, with what is in force. kafka.set_topic_config() changes one.';
COMMENT ON COLUMN kafka.topic_configs.source IS 'topic: set for it. broker: a setting of the broker holds. default: neither.';
COMMENT ON COLUMN kafka.topic_configs.effect IS 'works, no effect (it only matters to replication or to files), or refused (only the default is taken).';

CREATE OR REPLACE FUNCTION kafka.set_topic_config(topic text, name text, value text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    set_here jsonb;
    minimum_lag bigint;
    maximum_lag bigint;
BEGIN
    IF value IS NOT NULL THEN
        PERFORM kafka.refuse_config('topic', name, value);
    END IF;
    SELECT t.configs INTO set_here FROM kafka.topics t WHERE t.name = topic FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no topic "%"', topic USING ERRCODE = 'undefined_object', HINT = 'The topics are in kafka.topics.';
    END IF;
    set_here := CASE WHEN value IS NULL THEN set_here - name ELSE set_here || jsonb_build_object(name, value) END;
    minimum_lag := CASE WHEN kafka.config_fault('topic', 'min.compaction.lag.ms', coalesce(set_here ->> 'min.compaction.lag.ms', '')) IS NULL
                        THEN (set_here ->> 'min.compaction.lag.ms')::bigint ELSE 0 END;
    maximum_lag := CASE WHEN kafka.config_fault('topic', 'max.compaction.lag.ms', coalesce(set_here ->> 'max.compaction.lag.ms', '')) IS NULL
                        THEN (set_here ->> 'max.compaction.lag.ms')::bigint ELSE 9223372036854775807 END;
    IF minimum_lag > maximum_lag THEN
        RAISE EXCEPTION 'min.compaction.lag.ms (%) must not be larger than max.compaction.lag.ms (%)', minimum_lag, maximum_lag
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Change the other one first.';
    END IF;
    UPDATE kafka.topics t SET configs = set_here WHERE t.name = topic AND t.configs IS DISTINCT FROM set_here;
    RETURN value;
END
$$;
COMMENT ON FUNCTION kafka.set_topic_config(text, text, text) IS
    'Set a config of a topic; NULL removes it. Brokers follow within seconds. Refuses what the broker would refuse.';

CREATE OR REPLACE FUNCTION kafka.set_group_config(group_id text, name text, value text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    k kafka.config_keys;
    bound kafka.config_keys;
    set_here jsonb;
    limits bigint[] := '{}';
    session_ms bigint;
    heartbeat_ms bigint;
BEGIN
    IF value IS NOT NULL THEN
        PERFORM kafka.refuse_config('group', name, value);
        SELECT * INTO k FROM kafka.config_keys c WHERE c.scope = 'group' AND c.name = set_group_config.name;
        FOR n IN 1..cardinality(k.bounds) LOOP
            bound.synonyms := ARRAY[k.bounds[n]];
            limits[n] := kafka.broker_value(bound)::bigint;
        END LOOP;
        IF value::bigint NOT BETWEEN limits[1] AND limits[2] THEN
            RAISE EXCEPTION '% must be from % to %, not %', name, limits[1], limits[2], value
                USING ERRCODE = 'invalid_parameter_value', HINT = format('The brokers'' %s and %s say so.', k.bounds[1], k.bounds[2]);
        END IF;
    END IF;
    INSERT INTO kafka.group_configs AS g (group_id, configs) VALUES (set_group_config.group_id, '{}') ON CONFLICT DO NOTHING;
    SELECT g.configs INTO set_here FROM kafka.group_configs g WHERE g.group_id = set_group_config.group_id FOR UPDATE;
    set_here := CASE WHEN value IS NULL THEN set_here - name ELSE set_here || jsonb_build_object(name, value) END;
    SELECT (CASE WHEN set_here ? c.name AND kafka.config_fault('group', c.name, set_here ->> c.name) IS NULL
                 THEN set_here ->> c.name ELSE kafka.broker_value(c) END)::bigint INTO session_ms
    FROM kafka.config_keys c WHERE c.scope = 'group' AND c.name = 'consumer.session.timeout.ms';
    SELECT (CASE WHEN set_here ? c.name AND kafka.config_fault('group', c.name, set_here ->> c.name) IS NULL
                 THEN set_here ->> c.name ELSE kafka.broker_value(c) END)::bigint INTO heartbeat_ms
    FROM kafka.config_keys c WHERE c.scope = 'group' AND c.name = 'consumer.heartbeat.interval.ms';
    IF session_ms <= heartbeat_ms THEN
        RAISE EXCEPTION 'consumer.session.timeout.ms (%) must be greater than consumer.heartbeat.interval.ms (%)', session_ms, heartbeat_ms
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Change the other one first.';
    END IF;
    IF set_here = '{}' THEN
        DELETE FROM kafka.group_configs g WHERE g.group_id = set_group_config.group_id;
    ELSE
        UPDATE kafka.group_configs g SET configs = set_here
        WHERE g.group_id = set_group_config.group_id AND g.configs IS DISTINCT FROM set_here;
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION kafka.set_group_config(text, text, text) IS
    'Set a config of a consumer group, which need not exist yet; NULL removes it. Brokers follow within seconds. Refuses what the broker would refuse.';
