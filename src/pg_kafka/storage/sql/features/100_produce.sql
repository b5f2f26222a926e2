-- Producing by SQL, in the caller's transaction: kafka.produce(), kafka.produce_many(), INSERT INTO topics.<topic>.
--
-- Records go to the outbox (schema/100_outbox.sql), in the name of the schema's owner, for whoever may INSERT into the topic's view. What
-- a topic does not take is refused here, so that the caller's transaction fails and not a record later, of which nobody hears.
--
-- Locks: ROW EXCLUSIVE on one table of the outbox. (1885825896, 1) shared, which the relay holds exclusively while it sleeps: who
-- cannot have it has to wake the relay. With dedup_id also one row in each of two tables, until the end of the transaction.

CREATE OR REPLACE FUNCTION kafka.headers(headers jsonb) RETURNS kafka.header[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made kafka.header[];
    is_wrong boolean;
BEGIN
    IF jsonb_typeof(headers) = 'object' THEN
        SELECT array_agg(ROW(h.key, convert_to(h.value, 'UTF8'))::kafka.header ORDER BY h.n) INTO made
        FROM jsonb_each_text(headers) WITH ORDINALITY AS h (key, value, n);
        RETURN made;
    ELSIF jsonb_typeof(headers) = 'array' THEN
        -- A name may come several times here, and the order is kept.
        SELECT array_agg(ROW(h.element ->> 'key', convert_to(h.element ->> 'value', 'UTF8'))::kafka.header ORDER BY h.n),
               bool_or(jsonb_typeof(h.element -> 'key') IS DISTINCT FROM 'string')
        INTO made, is_wrong
        FROM jsonb_array_elements(headers) WITH ORDINALITY AS h (element, n);
        IF is_wrong IS NOT TRUE THEN
            RETURN made;
        END IF;
    END IF;
    RAISE EXCEPTION 'headers must be an object of names and values, or an array of objects with "key" and "value"'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'As in {"trace": "4711"} or [{"key": "trace", "value": "4711"}].';
END
$$;
COMMENT ON FUNCTION kafka.headers(jsonb) IS
    'Headers of a record from JSON: an object, or an array of {"key": ..., "value": ...} where a name comes several times. What is no text becomes JSON text.';

CREATE OR REPLACE FUNCTION kafka.refuse_producing(topic text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF topic IS NULL THEN
        RAISE EXCEPTION 'topic must not be NULL' USING ERRCODE = 'null_value_not_allowed', HINT = 'Name the topic that the record is for.';
    END IF;
    RAISE EXCEPTION 'topic "%" does not exist', topic
        USING ERRCODE = 'KF001', HINT = 'Create it with a tool of Kafka first; SELECT name FROM kafka.topics tells what there is.';
END
$$;
COMMENT ON FUNCTION kafka.refuse_producing(text) IS 'Part of kafka.produce(): the topic is not there.';

CREATE OR REPLACE FUNCTION kafka.may_produce(topic_id bigint, asking name) RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    found record;
    made text;
    is_new boolean := false;
BEGIN
    SELECT t.name, t.view_name, to_regclass('topics.' || quote_ident(t.view_name)) AS shown_by INTO found
    FROM kafka.topics t WHERE t.id = topic_id;
    made := found.view_name;
    IF found.shown_by IS NULL THEN
        -- A new topic, or somebody has dropped the view. Who has the rights of the owner needs none; for others it is made now instead
        -- of a moment later, with what ALTER DEFAULT PRIVILEGES gives.
        IF has_table_privilege(asking, 'kafka.messages', 'INSERT') THEN
            RETURN true;
        END IF;
        IF found.name !~ '^__|-(changelog|repartition)$' THEN
            made := kafka.create_topic_view(topic_id);
            is_new := true;
            found.shown_by := to_regclass('topics.' || quote_ident(made));
        END IF;
    END IF;
    IF has_table_privilege(asking, found.shown_by, 'INSERT') THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION 'permission denied for topic "%"', found.name
        USING ERRCODE = 'insufficient_privilege',
              HINT = CASE WHEN made IS NULL THEN 'Internal topics are for the owner of the schema kafka.'
                          -- A view that was made just now goes with this transaction.
                          WHEN is_new THEN format('SELECT kafka.grant_producer(%L, %L)', asking, found.name)
                          ELSE format('GRANT INSERT ON topics.%I TO %I', made, asking) END;
END
$$;
COMMENT ON FUNCTION kafka.may_produce(bigint, name) IS 'Part of kafka.produce(): true, or why this role may not.';

CREATE OR REPLACE FUNCTION kafka.join_outbox(xid text, guard text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- PREPARE TRANSACTION is refused: PostgreSQL does that to a transaction that has something to do about LISTEN or UNLISTEN. UNLISTEN
    -- is nothing to do until the session has once listened, to a channel that nobody notifies, for a moment.
    IF coalesce(guard, '') = '' THEN
        BEGIN
            LISTEN kafka_prepare;
            UNLISTEN kafka_prepare;
            PERFORM set_config('pg_kafka.producing', 'ready', false);
        EXCEPTION WHEN feature_not_supported OR object_not_in_prerequisite_state OR insufficient_privilege THEN
            -- Background processes may not listen, those of logical replication for instance. Nobody prepares a transaction with a lock
            -- both for it and for the session.
            PERFORM pg_advisory_lock_shared(1885825896, 2), pg_advisory_xact_lock_shared(1885825896, 2);
        END;
    ELSE
        UNLISTEN kafka_prepare;
    END IF;
    IF NOT pg_try_advisory_xact_lock_shared(1885825896, 1) THEN
        NOTIFY kafka_outbox;
    END IF;
    -- Once in each transaction. A savepoint that is rolled back takes all of it back, this included.
    PERFORM set_config('pg_kafka.producing', xid, true);
END
$$;
COMMENT ON FUNCTION kafka.join_outbox(text, text) IS
    'Part of kafka.produce(), once in a transaction: sees to it that the relay is awake after the commit, and that the transaction cannot be prepared.';

CREATE OR REPLACE FUNCTION kafka.check_outbox(turn integer, bytes bigint, most bigint) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    waiting constant bigint := pg_table_size('kafka.outbox_0') + pg_table_size('kafka.outbox_1')
                             + pg_table_size('kafka.outbox_2') + pg_table_size('kafka.outbox_3');
    dedup_ids constant bigint := pg_total_relation_size('kafka.deduplication_0') + pg_total_relation_size('kafka.deduplication_1');
BEGIN
    IF waiting + bytes <= most AND dedup_ids <= most THEN
        IF turn >= 4 THEN
            PERFORM setval('kafka.outbox_turn', turn & 3);
        END IF;
        RETURN;
    END IF;
    -- So that every call looks, not only one of many.
    IF turn < 4 THEN
        PERFORM setval('kafka.outbox_turn', turn | 4);
    END IF;
    IF dedup_ids > most THEN
        RAISE EXCEPTION 'the outbox is full: dedup_ids take % bytes of %', dedup_ids, most
            USING ERRCODE = 'KF005',
                  HINT = 'A broker forgets them after pg_kafka.dedup_window_ms, when no transaction is open that had one: look whether one runs (pg-kafka doctor).';
    END IF;
    RAISE EXCEPTION 'the outbox is full: % bytes of % are waiting for a broker', waiting, most
        USING ERRCODE = 'KF005',
              HINT = 'A broker moves them to the log: look whether one runs (pg-kafka doctor). SELECT kafka.set_config(''pg_kafka.outbox_max_bytes'', ...) makes room.';
END
$$;
COMMENT ON FUNCTION kafka.check_outbox(integer, bigint, bigint) IS 'Part of kafka.produce(): nothing, or KF005 when the outbox has no room.';

CREATE OR REPLACE FUNCTION kafka.open_outbox(
    topic text, partition integer, bytes bigint, deliver_at timestamptz, may_insert boolean,
    OUT id bigint, OUT topic_id bigint, OUT turn integer, OUT now_ms bigint, OUT max_message_bytes bigint, OUT needs_key boolean,
    OUT oldest_ms bigint, OUT newest_ms bigint, OUT outbox_max_bytes bigint, OUT dedup_window_ms bigint)
LANGUAGE plpgsql
AS $$
DECLARE
    partitions integer;
    configs jsonb;
    shown_by regclass;
    is_append_time boolean;
    before_ms bigint;
    after_ms bigint;
    -- In whose name the caller's statement runs; current_user is the owner in here.
    asking constant text := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    xid constant text := pg_current_xact_id()::text;
    guard constant text := current_setting('pg_kafka.producing', true);
BEGIN
    IF deliver_at IS NOT NULL THEN
        RAISE EXCEPTION 'deliver_at is not there yet: no record can be scheduled'
            USING ERRCODE = 'feature_not_supported', HINT = 'Produce the record when it is due, without deliver_at.';
    END IF;
    SELECT t.id, t.partitions, t.configs, to_regclass('topics.' || quote_ident(t.view_name)), w.last_value, l.max_message_bytes,
           l.is_compacted, l.is_append_time, l.timestamp_before_max_ms, l.timestamp_after_max_ms, l.outbox_max_bytes, l.dedup_window_ms
    INTO topic_id, partitions, configs, shown_by, turn, max_message_bytes,
         needs_key, is_append_time, before_ms, after_ms, outbox_max_bytes, dedup_window_ms
    FROM kafka.topics t, kafka.produce_limits l, kafka.outbox_turn w WHERE t.name = open_outbox.topic;
    IF topic_id IS NULL THEN
        PERFORM kafka.refuse_producing(topic);
    END IF;
    IF NOT may_insert AND has_table_privilege(asking, shown_by, 'INSERT') IS NOT TRUE THEN
        PERFORM kafka.may_produce(topic_id, asking);
    END IF;
    IF partition NOT BETWEEN 0 AND partitions - 1 THEN
        RAISE EXCEPTION 'topic "%" has no partition %', topic, partition
            USING ERRCODE = 'KF002', HINT = format('Its partitions are 0 to %s; NULL lets the key decide.', partitions - 1);
    END IF;
    IF configs <> '{}' THEN
        -- What the broker could not use, because somebody has written it by hand, does not count there either.
        max_message_bytes := coalesce(substring(configs ->> 'max.message.bytes' FROM '^[0-9]{1,18}$')::bigint, max_message_bytes);
        needs_key := coalesce('compact' = ANY (string_to_array(translate(configs ->> 'cleanup.policy', ' ', ''), ',')), needs_key);
        is_append_time := coalesce(configs ->> 'message.timestamp.type' = 'LogAppendTime', is_append_time);
        before_ms := coalesce(substring(configs ->> 'message.timestamp.before.max.ms' FROM '^[0-9]{1,18}$')::bigint, before_ms);
        after_ms := coalesce(substring(configs ->> 'message.timestamp.after.max.ms' FROM '^[0-9]{1,18}$')::bigint, after_ms);
    END IF;
    now_ms := floor(extract(epoch FROM clock_timestamp()) * 1000);
    IF NOT is_append_time THEN
        oldest_ms := now_ms - least(before_ms, now_ms);
        newest_ms := now_ms + least(after_ms, 9007199254740991);
    END IF;
    IF guard IS DISTINCT FROM xid THEN
        PERFORM kafka.join_outbox(xid, guard);
    END IF;
    id := nextval('kafka.outbox_ids');
    IF turn >= 4 OR bytes > 65536 OR (id >> 16) & 63 = 0 THEN
        PERFORM kafka.check_outbox(turn, bytes, outbox_max_bytes);
    END IF;
    turn := turn & 3;
END
$$;
COMMENT ON FUNCTION kafka.open_outbox(text, integer, bigint, timestamptz, boolean) IS
    'Part of kafka.produce(): whether this caller may write so much to a topic now, what a record of it must be like, and the id of the first.';

CREATE OR REPLACE FUNCTION kafka.deduplicate(topic_id bigint, dedup_id text, id bigint, window_ms bigint) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    since constant timestamptz := clock_timestamp() - window_ms * interval '1 millisecond';
    first_id bigint;
BEGIN
    IF dedup_id = '' OR octet_length(dedup_id) > 1024 THEN
        RAISE EXCEPTION 'dedup_id must have 1 to 1024 bytes, not %', octet_length(dedup_id)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Hash what is longer.';
    END IF;
    -- A repeat that is under way in another transaction is waited for: it has or has not been when that has ended. In REPEATABLE READ it
    -- is a serialization failure when it has. Always the one table before the other, so that nobody waits in a circle.
    INSERT INTO kafka.deduplication_0 AS d (topic, dedup_id, id) VALUES (topic_id, deduplicate.dedup_id, deduplicate.id)
    ON CONFLICT ON CONSTRAINT deduplication_0_pkey DO UPDATE SET id = EXCLUDED.id, called_at = EXCLUDED.called_at
    WHERE d.called_at <= since;
    IF NOT FOUND THEN
        SELECT d.id INTO first_id FROM kafka.deduplication_0 d WHERE d.topic = topic_id AND d.dedup_id = deduplicate.dedup_id;
        RETURN first_id;
    END IF;
    INSERT INTO kafka.deduplication_1 AS d (topic, dedup_id, id) VALUES (topic_id, deduplicate.dedup_id, deduplicate.id)
    ON CONFLICT ON CONSTRAINT deduplication_1_pkey DO UPDATE SET id = EXCLUDED.id, called_at = EXCLUDED.called_at
    WHERE d.called_at <= since;
    IF FOUND THEN
        RETURN id;
    END IF;
    -- The first call was before the other table was emptied: it holds on there under its own id and time.
    UPDATE kafka.deduplication_0 d SET id = f.id, called_at = f.called_at
    FROM kafka.deduplication_1 f
    WHERE d.topic = topic_id AND d.dedup_id = deduplicate.dedup_id AND f.topic = topic_id AND f.dedup_id = deduplicate.dedup_id
    RETURNING d.id INTO first_id;
    RETURN first_id;
END
$$;
COMMENT ON FUNCTION kafka.deduplicate(bigint, text, bigint, bigint) IS
    'Part of kafka.produce(): the id of the first call with this dedup_id in the window, which is the one that is passed in when there was none.';

CREATE OR REPLACE FUNCTION kafka.rotate_deduplication() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    window_ms bigint;
    next smallint;
BEGIN
    SELECT l.dedup_window_ms, 1 - t.emptied INTO window_ms, next
    FROM kafka.deduplication_turn t, kafka.produce_limits l
    WHERE t.emptied_at <= clock_timestamp() - l.dedup_window_ms * interval '1 millisecond';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Whoever is at it keeps it for this time: nobody waits behind us.
    IF next = 0 THEN
        LOCK TABLE kafka.deduplication_0 IN ACCESS EXCLUSIVE MODE NOWAIT;
        IF pg_relation_size('kafka.deduplication_0') > 0 THEN
            TRUNCATE kafka.deduplication_0;
        END IF;
    ELSE
        LOCK TABLE kafka.deduplication_1 IN ACCESS EXCLUSIVE MODE NOWAIT;
        IF pg_relation_size('kafka.deduplication_1') > 0 THEN
            TRUNCATE kafka.deduplication_1;
        END IF;
    END IF;
    UPDATE kafka.deduplication_turn t SET emptied = next, emptied_at = clock_timestamp();
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION kafka.rotate_deduplication() IS
    'Empty one of the two tables of dedup_ids when the other one has the whole window; false when it is not time, or a transaction uses it. The broker calls it every minute.';

CREATE OR REPLACE FUNCTION kafka.append_to_outbox(
    turn integer, id bigint, topic_id bigint, topic text, partition integer, record_count integer, bytes integer, first_timestamp bigint,
    timestamps bigint[], keys bytea[], header_ends integer[], header_keys bytea[], header_values bytea[], "values" bytea[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF turn = 0 THEN
        INSERT INTO kafka.outbox_0 (id, topic, topic_name, partition, record_count, bytes, first_timestamp, timestamps, keys,
                                    header_ends, header_keys, header_values, values)
        VALUES (id, topic_id, topic, partition, record_count, bytes, first_timestamp, timestamps, keys,
                header_ends, header_keys, header_values, "values");
    ELSIF turn = 1 THEN
        INSERT INTO kafka.outbox_1 (id, topic, topic_name, partition, record_count, bytes, first_timestamp, timestamps, keys,
                                    header_ends, header_keys, header_values, values)
        VALUES (id, topic_id, topic, partition, record_count, bytes, first_timestamp, timestamps, keys,
                header_ends, header_keys, header_values, "values");
    ELSIF turn = 2 THEN
        INSERT INTO kafka.outbox_2 (id, topic, topic_name, partition, record_count, bytes, first_timestamp, timestamps, keys,
                                    header_ends, header_keys, header_values, values)
        VALUES (id, topic_id, topic, partition, record_count, bytes, first_timestamp, timestamps, keys,
                header_ends, header_keys, header_values, "values");
    ELSE
        INSERT INTO kafka.outbox_3 (id, topic, topic_name, partition, record_count, bytes, first_timestamp, timestamps, keys,
                                    header_ends, header_keys, header_values, values)
        VALUES (id, topic_id, topic, partition, record_count, bytes, first_timestamp, timestamps, keys,
                header_ends, header_keys, header_values, "values");
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.append_to_outbox(integer, bigint, bigint, text, integer, integer, integer, bigint, bigint[], bytea[], integer[], bytea[], bytea[], bytea[]) IS
    'Part of kafka.produce(): one row for the table of the outbox that is written.';

CREATE OR REPLACE FUNCTION kafka.refuse_record(
    topic text, bytes bigint, max_message_bytes bigint, lacks_key boolean, timestamp_ms bigint, oldest_ms bigint, newest_ms bigint)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF lacks_key THEN
        RAISE EXCEPTION 'topic "%" is compacted, and a record has no key', topic
            USING ERRCODE = 'KF004', HINT = 'Of each key the last record is kept: give each record one by key => ...';
    ELSIF bytes > max_message_bytes THEN
        RAISE EXCEPTION 'a record of % bytes is too large for topic "%", which takes %', bytes, topic, max_message_bytes
            USING ERRCODE = 'KF003', HINT = 'max.message.bytes of the topic says how much it takes, in Kafka''s format and before it is compressed: SELECT kafka.set_topic_config(topic, ''max.message.bytes'', ...)';
    ELSIF timestamp_ms < 0 OR timestamp_ms > 9007199254740991 OR timestamp_ms IS NULL THEN
        RAISE EXCEPTION 'the timestamp of a record must be between 1970 and the year 287396'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL stands for now.';
    ELSIF timestamp_ms < oldest_ms OR timestamp_ms > newest_ms THEN
        RAISE EXCEPTION 'topic "%" takes no record of %', topic, timestamptz 'epoch' + timestamp_ms * interval '1 millisecond'
            USING ERRCODE = 'KF006', HINT = 'message.timestamp.before.max.ms and message.timestamp.after.max.ms of the topic say how far from now it may be.';
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.refuse_record(text, bigint, bigint, boolean, bigint, bigint, bigint) IS
    'Part of kafka.produce(): says why a topic does not take a record.';

CREATE OR REPLACE FUNCTION kafka.store_record(
    topic text, value bytea, key bytea, headers kafka.header[], partition integer, "timestamp" timestamptz, deliver_at timestamptz,
    dedup_id text, may_insert boolean) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    box record;
    stamp bigint;
    keys bytea[];
    header_ends integer[];
    header_keys bytea[];
    header_values bytea[];
    header_count integer := cardinality(headers);
    -- 82 is the most that a batch and a record take beside their contents, as Java's client reckons.
    bytes bigint := coalesce(octet_length(value), 0) + coalesce(octet_length(key), 0);
    wire_bytes bigint := bytes + 82;
    first_id bigint;
BEGIN
    IF header_count > 0 THEN
        SELECT array_agg(convert_to(h.key, 'UTF8') ORDER BY h.n), array_agg(h.value ORDER BY h.n),
               bytes + sum(octet_length(convert_to(h.key, 'UTF8')) + coalesce(octet_length(h.value), 0))
        INTO header_keys, header_values, bytes
        FROM unnest(headers) WITH ORDINALITY AS h (key, value, n);
        IF array_position(header_keys, NULL) IS NOT NULL THEN
            RAISE EXCEPTION 'the name of a header must not be NULL'
                USING ERRCODE = 'null_value_not_allowed', HINT = 'Its value may be.';
        END IF;
        wire_bytes := bytes + 82 + 10 * header_count;
    END IF;
    box := kafka.open_outbox(topic, partition, bytes, deliver_at, may_insert);
    stamp := CASE WHEN "timestamp" IS NULL THEN box.now_ms ELSE kafka.milliseconds("timestamp") END;
    IF wire_bytes > box.max_message_bytes OR key IS NULL AND box.needs_key
       OR "timestamp" IS NOT NULL AND (stamp BETWEEN coalesce(box.oldest_ms, 0) AND coalesce(box.newest_ms, 9007199254740991)) IS NOT TRUE THEN
        PERFORM kafka.refuse_record(topic, wire_bytes, box.max_message_bytes, key IS NULL AND box.needs_key,
                                    stamp, box.oldest_ms, box.newest_ms);
    END IF;
    IF dedup_id IS NOT NULL THEN
        first_id := kafka.deduplicate(box.topic_id, dedup_id, box.id, box.dedup_window_ms);
        IF first_id <> box.id THEN
            RETURN first_id;
        END IF;
    END IF;
    keys := CASE WHEN key IS NOT NULL THEN ARRAY[key] END;
    header_ends := CASE WHEN header_count > 0 THEN ARRAY[header_count] END;
    -- Not by kafka.append_to_outbox(): a call with so many arguments takes as long as half of the rest.
    IF box.turn = 0 THEN
        INSERT INTO kafka.outbox_0 (id, topic, topic_name, partition, record_count, bytes, first_timestamp, keys, header_ends, header_keys,
                                    header_values, values)
        VALUES (box.id, box.topic_id, topic, partition, 1, bytes, stamp, keys, header_ends, header_keys, header_values, ARRAY[value]);
    ELSIF box.turn = 1 THEN
        INSERT INTO kafka.outbox_1 (id, topic, topic_name, partition, record_count, bytes, first_timestamp, keys, header_ends, header_keys,
                                    header_values, values)
        VALUES (box.id, box.topic_id, topic, partition, 1, bytes, stamp, keys, header_ends, header_keys, header_values, ARRAY[value]);
    ELSIF box.turn = 2 THEN
        INSERT INTO kafka.outbox_2 (id, topic, topic_name, partition, record_count, bytes, first_timestamp, keys, header_ends, header_keys,
                                    header_values, values)
        VALUES (box.id, box.topic_id, topic, partition, 1, bytes, stamp, keys, header_ends, header_keys, header_values, ARRAY[value]);
    ELSE
        INSERT INTO kafka.outbox_3 (id, topic, topic_name, partition, record_count, bytes, first_timestamp, keys, header_ends, header_keys,
                                    header_values, values)
        VALUES (box.id, box.topic_id, topic, partition, 1, bytes, stamp, keys, header_ends, header_keys, header_values, ARRAY[value]);
    END IF;
    RETURN box.id;
END
$$;
COMMENT ON FUNCTION kafka.store_record(text, bytea, bytea, kafka.header[], integer, timestamptz, timestamptz, text, boolean) IS
    'Part of kafka.produce(): one record, checked and put into the outbox.';

CREATE OR REPLACE FUNCTION kafka.milliseconds(moment timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN isfinite(moment) THEN floor(extract(epoch FROM moment) * 1000)::bigint END;
COMMENT ON FUNCTION kafka.milliseconds(timestamptz) IS 'A moment as Kafka counts it: ms since the epoch; NULL for infinity.';

CREATE OR REPLACE FUNCTION kafka.produce_record(
    topic text, value bytea, key bytea DEFAULT NULL, headers kafka.header[] DEFAULT NULL, partition integer DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, dedup_id text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN kafka.store_record(topic, value, key, headers, partition, "timestamp", deliver_at, dedup_id, false);
END
$$;
COMMENT ON FUNCTION kafka.produce_record(text, bytea, bytea, kafka.header[], integer, timestamptz, timestamptz, text) IS
    'As kafka.produce(), which comes to this, for a record as kafka.messages and kafka.poll() show it: with its headers as they are.';

-- The forms of kafka.produce(). They are nothing but their one expression, which PostgreSQL puts in their place. A key that is text has
-- a default and one that is bytea has none, so that a call without key fits one form only; a literal fits the form with text. Headers
-- have one type in all of them: with kafka.header[] as another, PostgreSQL would not know what a literal is.
CREATE OR REPLACE FUNCTION kafka.produce(
    topic text, value text, key text DEFAULT NULL, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, dedup_id text DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN kafka.produce_record(topic, convert_to(value, 'UTF8'), convert_to(key, 'UTF8'), kafka.headers(headers), partition, "timestamp",
                            deliver_at, dedup_id);

CREATE OR REPLACE FUNCTION kafka.produce(
    topic text, value jsonb, key text DEFAULT NULL, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, dedup_id text DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN kafka.produce_record(topic, convert_to(value::text, 'UTF8'), convert_to(key, 'UTF8'), kafka.headers(headers), partition,
                            "timestamp", deliver_at, dedup_id);

CREATE OR REPLACE FUNCTION kafka.produce(
    topic text, value bytea, key text DEFAULT NULL, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, dedup_id text DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN kafka.produce_record(topic, value, convert_to(key, 'UTF8'), kafka.headers(headers), partition, "timestamp", deliver_at, dedup_id);

CREATE OR REPLACE FUNCTION kafka.produce(
    topic text, value text, key bytea, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, dedup_id text DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN kafka.produce_record(topic, convert_to(value, 'UTF8'), key, kafka.headers(headers), partition, "timestamp", deliver_at, dedup_id);

CREATE OR REPLACE FUNCTION kafka.produce(
    topic text, value jsonb, key bytea, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, dedup_id text DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN kafka.produce_record(topic, convert_to(value::text, 'UTF8'), key, kafka.headers(headers), partition, "timestamp", deliver_at,
                            dedup_id);

CREATE OR REPLACE FUNCTION kafka.produce(
    topic text, value bytea, key bytea, headers jsonb DEFAULT NULL, partition integer DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, dedup_id text DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN kafka.produce_record(topic, value, key, kafka.headers(headers), partition, "timestamp", deliver_at, dedup_id);

DO $do$
DECLARE
    form regprocedure;
BEGIN
    FOR form IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'kafka'::regnamespace AND p.proname = 'produce' LOOP
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', form,
            'Produce a record in this transaction: consumers see it after the commit, and never when there is none. Returns an id for kafka.produced(). '
            'A value that is NULL is a tombstone. With dedup_id a repeat within pg_kafka.dedup_window_ms returns the id of the first and does nothing else. '
            'Needs INSERT on the topic''s view.');
    END LOOP;
END
$do$;

CREATE OR REPLACE FUNCTION kafka.produce_records(
    topic text, "values" bytea[], keys bytea[] DEFAULT NULL, headers jsonb[] DEFAULT NULL, partition integer DEFAULT NULL,
    timestamps timestamptz[] DEFAULT NULL)
RETURNS TABLE (first_id bigint, record_count integer)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- A row of the outbox has about so many bytes, and so many records at most.
    row_bytes constant integer := 1000000;
    row_records constant integer := 65536;
    number constant integer := cardinality("values");
    box record;
    part record;
    key_count constant integer := cardinality(keys) - cardinality(array_positions(keys, NULL));
    stamps bigint[];
    header_ends integer[];
    header_keys bytea[];
    header_values bytea[];
    header_bytes integer[];
    total bigint;
    largest bigint;
    headers_before integer;
    ends integer[];
BEGIN
    IF "values" IS NULL THEN
        RAISE EXCEPTION 'values must not be NULL' USING ERRCODE = 'null_value_not_allowed', HINT = 'An element may be: it is a tombstone.';
    ELSIF cardinality(keys) <> number OR cardinality(headers) <> number OR cardinality(timestamps) <> number THEN
        RAISE EXCEPTION 'there are % values, % keys, % headers and % timestamps', number, coalesce(cardinality(keys)::text, 'no'),
                        coalesce(cardinality(headers)::text, 'no'), coalesce(cardinality(timestamps)::text, 'no')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give one for each value, which may be NULL, or none at all.';
    END IF;
    IF headers IS NOT NULL THEN
        SELECT array_agg(e.ends::integer ORDER BY e.n), array_agg(e.bytes::integer ORDER BY e.n)
        INTO header_ends, header_bytes
        FROM (SELECT r.n, sum(count(h.key)) OVER (ORDER BY r.n) AS ends,
                     coalesce(sum(octet_length(convert_to(h.key, 'UTF8')) + coalesce(octet_length(h.value), 0) + 10), 0) AS bytes
              FROM unnest(headers) WITH ORDINALITY AS r (header, n)
              LEFT JOIN LATERAL unnest(kafka.headers(r.header)) AS h (key, value) ON true
              GROUP BY r.n) AS e;
        SELECT array_agg(convert_to(h.key, 'UTF8') ORDER BY r.n, h.n), array_agg(h.value ORDER BY r.n, h.n)
        INTO header_keys, header_values
        FROM unnest(headers) WITH ORDINALITY AS r (header, n)
        CROSS JOIN LATERAL unnest(kafka.headers(r.header)) WITH ORDINALITY AS h (key, value, n);
        IF header_keys IS NULL THEN
            header_ends := NULL;
            header_bytes := NULL;
        END IF;
    END IF;
    -- Set-returning functions in a select list go through arrays side by side, several times as fast as in FROM.
    SELECT sum(r.size), max(r.size) INTO total, largest
    FROM (SELECT coalesce(octet_length(s.value), 0) + coalesce(octet_length(s.key), 0) + coalesce(s.header, 0) AS size
          FROM (SELECT unnest("values") AS value, unnest(keys) AS key, unnest(header_bytes) AS header) AS s) AS r;
    box := kafka.open_outbox(topic, partition, coalesce(total, 0), NULL, false);
    IF number = 0 THEN
        RETURN;
    END IF;
    IF largest + 82 > box.max_message_bytes OR box.needs_key AND key_count IS DISTINCT FROM number THEN
        PERFORM kafka.refuse_record(topic, largest + 82, box.max_message_bytes, box.needs_key AND key_count IS DISTINCT FROM number,
                                    box.now_ms, NULL, NULL);
    END IF;
    IF timestamps IS NOT NULL THEN
        stamps := ARRAY(SELECT CASE WHEN s.moment IS NULL THEN box.now_ms ELSE kafka.milliseconds(s.moment) END
                        FROM unnest(timestamps) WITH ORDINALITY AS s (moment, n) ORDER BY s.n);
        PERFORM kafka.refuse_record(topic, 0, 0, false, s.stamp, box.oldest_ms, box.newest_ms)
        FROM unnest(stamps) AS s (stamp)
        WHERE (s.stamp BETWEEN coalesce(box.oldest_ms, 0) AND coalesce(box.newest_ms, 9007199254740991)) IS NOT TRUE;
    END IF;
    first_id := box.id;
    FOR part IN
        SELECT min(r.n) AS first, max(r.n) AS last, sum(r.size)::integer AS bytes
        FROM (SELECT z.n, z.size, sum(z.size) OVER (ROWS UNBOUNDED PRECEDING) AS running
              FROM (SELECT s.n, coalesce(octet_length(s.value), 0) + coalesce(octet_length(s.key), 0) + coalesce(s.header, 0) AS size
                    FROM (SELECT generate_series(1, number) AS n,
                                 unnest("values") AS value, unnest(keys) AS key, unnest(header_bytes) AS header) AS s) AS z) AS r
        GROUP BY (r.running - r.size) / row_bytes, (r.n - 1) / row_records ORDER BY 1
    LOOP
        first_id := CASE WHEN part.first = 1 THEN box.id ELSE nextval('kafka.outbox_ids') END;
        record_count := part.last - part.first + 1;
        headers_before := coalesce(header_ends[part.first - 1], 0);
        IF header_ends[part.last] > headers_before THEN
            ends := ARRAY(SELECT e - headers_before FROM unnest(header_ends[part.first:part.last]) AS e);
        ELSE
            ends := NULL;
        END IF;
        PERFORM kafka.append_to_outbox(
            box.turn, first_id, box.topic_id, topic, partition, record_count,
            part.bytes - CASE WHEN ends IS NULL THEN 0 ELSE 10 * (header_ends[part.last] - headers_before) END,
            CASE WHEN stamps IS NULL THEN box.now_ms ELSE stamps[part.first] END, stamps[part.first:part.last],
            CASE WHEN key_count > 0 THEN keys[part.first:part.last] END, ends,
            CASE WHEN ends IS NOT NULL THEN header_keys[headers_before + 1:header_ends[part.last]] END,
            CASE WHEN ends IS NOT NULL THEN header_values[headers_before + 1:header_ends[part.last]] END,
            "values"[part.first:part.last]);
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.produce_records(text, bytea[], bytea[], jsonb[], integer, timestamptz[]) IS
    'What every kafka.produce_many() comes to.';

-- The forms of kafka.produce_many(), as those of kafka.produce().
CREATE OR REPLACE FUNCTION kafka.produce_many(
    topic text, "values" text[], keys text[] DEFAULT NULL, headers jsonb[] DEFAULT NULL, partition integer DEFAULT NULL,
    timestamps timestamptz[] DEFAULT NULL) RETURNS TABLE (first_id bigint, record_count integer)
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT r.first_id, r.record_count
    FROM kafka.produce_records(
        topic, CASE WHEN "values" IS NOT NULL THEN ARRAY(SELECT convert_to(v, 'UTF8') FROM unnest("values") AS v) END,
        CASE WHEN keys IS NOT NULL THEN ARRAY(SELECT convert_to(k, 'UTF8') FROM unnest(keys) AS k) END,
        headers, partition, timestamps) AS r;
END;

CREATE OR REPLACE FUNCTION kafka.produce_many(
    topic text, "values" text[], keys bytea[], headers jsonb[] DEFAULT NULL, partition integer DEFAULT NULL,
    timestamps timestamptz[] DEFAULT NULL) RETURNS TABLE (first_id bigint, record_count integer)
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT r.first_id, r.record_count
    FROM kafka.produce_records(
        topic, CASE WHEN "values" IS NOT NULL THEN ARRAY(SELECT convert_to(v, 'UTF8') FROM unnest("values") AS v) END,
        keys,
        headers, partition, timestamps) AS r;
END;

CREATE OR REPLACE FUNCTION kafka.produce_many(
    topic text, "values" jsonb[], keys text[] DEFAULT NULL, headers jsonb[] DEFAULT NULL, partition integer DEFAULT NULL,
    timestamps timestamptz[] DEFAULT NULL) RETURNS TABLE (first_id bigint, record_count integer)
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT r.first_id, r.record_count
    FROM kafka.produce_records(
        topic, CASE WHEN "values" IS NOT NULL THEN ARRAY(SELECT convert_to(v::text, 'UTF8') FROM unnest("values") AS v) END,
        CASE WHEN keys IS NOT NULL THEN ARRAY(SELECT convert_to(k, 'UTF8') FROM unnest(keys) AS k) END,
        headers, partition, timestamps) AS r;
END;

CREATE OR REPLACE FUNCTION kafka.produce_many(
    topic text, "values" jsonb[], keys bytea[], headers jsonb[] DEFAULT NULL, partition integer DEFAULT NULL,
    timestamps timestamptz[] DEFAULT NULL) RETURNS TABLE (first_id bigint, record_count integer)
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT r.first_id, r.record_count
    FROM kafka.produce_records(
        topic, CASE WHEN "values" IS NOT NULL THEN ARRAY(SELECT convert_to(v::text, 'UTF8') FROM unnest("values") AS v) END,
        keys,
        headers, partition, timestamps) AS r;
END;

CREATE OR REPLACE FUNCTION kafka.produce_many(
    topic text, "values" bytea[], keys text[] DEFAULT NULL, headers jsonb[] DEFAULT NULL, partition integer DEFAULT NULL,
    timestamps timestamptz[] DEFAULT NULL) RETURNS TABLE (first_id bigint, record_count integer)
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT r.first_id, r.record_count
    FROM kafka.produce_records(
        topic, "values",
        CASE WHEN keys IS NOT NULL THEN ARRAY(SELECT convert_to(k, 'UTF8') FROM unnest(keys) AS k) END,
        headers, partition, timestamps) AS r;
END;

CREATE OR REPLACE FUNCTION kafka.produce_many(
    topic text, "values" bytea[], keys bytea[], headers jsonb[] DEFAULT NULL, partition integer DEFAULT NULL,
    timestamps timestamptz[] DEFAULT NULL) RETURNS TABLE (first_id bigint, record_count integer)
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT r.first_id, r.record_count
    FROM kafka.produce_records(
        topic, "values",
        keys,
        headers, partition, timestamps) AS r;
END;

DO $do$
DECLARE
    form regprocedure;
BEGIN
    FOR form IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'kafka'::regnamespace AND p.proname = 'produce_many' LOOP
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', form,
            'Produce many records at once, as kafka.produce() does one. Keys, headers and timestamps have one element for each value. '
            'Answers with a row for each range of ids: record n of it, from 0, has first_id + n.');
    END LOOP;
END
$do$;

CREATE OR REPLACE FUNCTION kafka.produce_inserted() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic text;
    rest record := NEW;
BEGIN
    SELECT t.name INTO topic FROM kafka.topics t WHERE t.id = TG_ARGV[0]::bigint;
    IF topic IS NULL THEN
        PERFORM kafka.refuse_producing(TG_TABLE_NAME);
    END IF;
    rest.key := NULL;
    rest.value := NULL;
    rest.headers := NULL;
    rest.partition_id := NULL;
    rest.timestamp := NULL;
    rest.timestamp_ms := NULL;
    IF NOT (rest IS NULL) THEN
        RAISE EXCEPTION 'only key, value, headers, partition_id and timestamp of a record can be inserted'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Offsets are given when it is in the log; columns that are taken from the value belong into the value.';
    END IF;
    IF NEW.timestamp_ms IS NOT NULL THEN
        NEW.timestamp := timestamptz 'epoch' + NEW.timestamp_ms * interval '1 millisecond';
    END IF;
    -- PostgreSQL has asked for INSERT on the view already, of whoever runs the statement.
    PERFORM kafka.store_record(topic, NEW.value, NEW.key, NEW.headers, NEW.partition_id, NEW.timestamp, NULL, NULL, true);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION kafka.produce_inserted() IS
    'Trigger of topics'' views: INSERT produces. Its argument is the topic''s id.';

CREATE OR REPLACE FUNCTION kafka.grant_producer(role name, topic text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target record;
    form regprocedure;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA kafka, topics TO %I', role);
    EXECUTE format('GRANT USAGE ON TYPE kafka.header TO %I', role);
    FOR form IN
        SELECT p.oid FROM pg_proc p
        WHERE p.pronamespace = 'kafka'::regnamespace
          AND p.proname IN ('produce', 'produce_record', 'produce_many', 'produce_records', 'produced', 'headers')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', form, role);
    END LOOP;
    FOR target IN
        SELECT t.id, t.name, t.view_name FROM kafka.topics t
        WHERE CASE WHEN grant_producer.topic IS NULL THEN t.view_name IS NOT NULL ELSE t.name = grant_producer.topic END
        ORDER BY t.name
    LOOP
        IF to_regclass('topics.' || quote_ident(target.view_name)) IS NULL THEN
            target.view_name := kafka.create_topic_view(target.id);
        END IF;
        EXECUTE format('GRANT INSERT ON topics.%I TO %I', target.view_name, role);
    END LOOP;
    IF NOT FOUND AND topic IS NOT NULL THEN
        PERFORM kafka.refuse_producing(topic);
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.grant_producer(name, text) IS
    'Let a role produce to a topic by SQL; without a topic, to all that there are now. For the owner of the schema.';
