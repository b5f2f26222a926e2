-- kafka.read_time and kafka.tail: records by time and from the end, found by extents and indexes, whatever the size of the log.
--
-- Both find the stored rows first, by small columns and arrays of timestamps, and hand out what the topic's view would show of these. They
-- read in the name of the schema's owner, for whoever may SELECT from the topic's view: a new topic has none yet.
--
-- Records may move to another segment between two statements. The statement that reads them looks whether the extents are what they were,
-- and finds nothing when they are not: then the places are looked for again.

CREATE OR REPLACE FUNCTION kafka.topic_to_read(topic text, partition integer) RETURNS kafka.topics
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_topic kafka.topics;
    shown_by regclass;
    -- In whose name the caller's statement runs; current_user is the owner in here.
    asking constant text := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
BEGIN
    IF topic IS NULL THEN
        RAISE EXCEPTION 'topic must not be NULL' USING ERRCODE = 'null_value_not_allowed', HINT = 'The topics are in kafka.topics.';
    END IF;
    SELECT * INTO found_topic FROM kafka.topics t WHERE t.name = topic_to_read.topic;
    IF found_topic.id IS NULL THEN
        RAISE EXCEPTION 'topic "%" does not exist', topic USING ERRCODE = 'KF001', HINT = 'The topics are in kafka.topics.';
    END IF;
    shown_by := coalesce(to_regclass('topics.' || quote_ident(found_topic.view_name)), 'kafka.messages'::regclass);
    IF NOT has_table_privilege(asking, shown_by, 'SELECT') THEN
        RAISE EXCEPTION 'permission denied to read topic "%"', topic
            USING ERRCODE = 'insufficient_privilege', HINT = format('GRANT SELECT ON %s TO %I', shown_by, asking);
    END IF;
    IF partition NOT BETWEEN 0 AND found_topic.partitions - 1 THEN
        RAISE EXCEPTION 'topic "%" has no partition %', topic, partition
            USING ERRCODE = 'KF002', HINT = format('Its partitions are 0 to %s.', found_topic.partitions - 1);
    END IF;
    RETURN found_topic;
END
$$;
COMMENT ON FUNCTION kafka.topic_to_read(text, integer) IS
    'Part of kafka.read_time() and others: the topic, or an error when there is none, it has no such partition (NULL: all), or the caller may not read it.';

CREATE OR REPLACE FUNCTION kafka.time_extents(topic_id bigint, partitions int4range, from_ms bigint, to_ms bigint) RETURNS SETOF kafka.extents
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
-- What is not known of an extent leaves it in. Index: the primary key.
BEGIN ATOMIC
    SELECT e.* FROM kafka.extents e LEFT JOIN kafka.log_starts s ON s.topic = e.topic AND s.partition = e.partition
    WHERE e.topic = topic_id AND e.partition >= lower(partitions) AND e.partition < upper(partitions)
      AND (e.last_offset IS NULL OR e.last_offset >= coalesce(s.log_start_offset, 0))
      AND (e.max_timestamp IS NULL OR e.max_timestamp >= from_ms)
      AND (e.min_timestamp IS NULL OR e.min_timestamp < to_ms);
END;
COMMENT ON FUNCTION kafka.time_extents(bigint, int4range, bigint, bigint) IS
    'Part of kafka.read_time(): extents of partitions that may have records with timestamps (ms) from from_ms up to and without to_ms.';

CREATE OR REPLACE FUNCTION kafka.time_rows(topic_id bigint, partitions int4range, from_ms bigint, to_ms bigint)
RETURNS TABLE (partition integer, first_offset bigint, generation integer, series bigint, segment integer, base_offset bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
-- A segment that is small today is planned as what it becomes.
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    leaf record;
BEGIN
    FOR leaf IN
        SELECT format('kafka.log_%s_%s', x.series, x.segment) AS name, array_agg(x.partition) AS partitions,
               array_agg(x.first_offset) AS first_offsets, array_agg(x.next_offset) AS next_offsets, array_agg(x.generation) AS generations,
               array_agg(x.n = 1) AS are_first, x.series, x.segment
        FROM (SELECT e.*, row_number() OVER (PARTITION BY e.partition ORDER BY e.first_offset) AS n,
                     coalesce(e.last_offset, 9223372036854775806) + 1 AS next_offset
              FROM kafka.time_extents(topic_id, partitions, from_ms, to_ms) e) AS x
        GROUP BY x.series, x.segment ORDER BY x.series, x.segment
    LOOP
        -- The segment may have been freed since, and then nothing in it counts.
        CONTINUE WHEN to_regclass(leaf.name) IS NULL;
        RETURN QUERY EXECUTE format($query$
            SELECT w.partition, w.first_offset, w.generation, $8::bigint, $9::integer, l.base_offset
            FROM unnest($2, $3, $4, $5, $6) AS w (partition, first_offset, next_offset, generation, is_first)
            -- Rows of before that time are in a partition's first extent only. From row to row the largest timestamp so far never falls: so
            -- the first row that counts is found by halving, with one look into the index each time.
            CROSS JOIN LATERAL (
                WITH RECURSIVE halves AS (
                    -- What is below low is too early. What is at high, or behind it, is not, or it is the last row.
                    SELECT w.first_offset AS low,
                           CASE WHEN NOT w.is_first OR (SELECT r.running_max_timestamp FROM %1$s r
                                                        WHERE r.topic = $1 AND r.partition = w.partition AND r.base_offset >= w.first_offset
                                                        ORDER BY r.base_offset LIMIT 1) >= $7
                                THEN w.first_offset
                                ELSE (SELECT r.base_offset FROM %1$s r WHERE r.topic = $1 AND r.partition = w.partition
                                      ORDER BY r.base_offset DESC LIMIT 1) END AS high
                    UNION ALL
                    SELECT CASE WHEN r.running_max_timestamp < $7 THEN r.base_offset + 1 ELSE h.low END,
                           CASE WHEN r.running_max_timestamp < $7 THEN h.high ELSE h.low + (h.high - h.low) / 2 END
                    FROM halves h
                    CROSS JOIN LATERAL (SELECT l.base_offset, l.running_max_timestamp FROM %1$s l
                                        WHERE l.topic = $1 AND l.partition = w.partition AND l.base_offset >= h.low + (h.high - h.low) / 2
                                        ORDER BY l.base_offset LIMIT 1) AS r
                    WHERE h.low < h.high
                )
                SELECT max(h.low) AS low FROM halves h
            ) AS b
            JOIN %1$s l ON l.topic = $1 AND l.partition = w.partition AND l.base_offset >= b.low AND l.base_offset < w.next_offset
            WHERE l.max_timestamp >= $7 AND NOT l.is_control AND l.record_count > 0
              -- Of rows whose records have different timestamps these are read, and nothing else. What is packed was so when this statement
              -- began: whoever reads the row gets an error.
              AND CASE WHEN l.timestamps IS NULL THEN l.first_timestamp < $10 OR l.batch IS NOT NULL
                       ELSE $10 > ANY (l.timestamps) AND $7 <= ANY (l.timestamps) END
            $query$, leaf.name)
        USING topic_id, leaf.partitions, leaf.first_offsets, leaf.next_offsets, leaf.generations, leaf.are_first, from_ms,
              leaf.series, leaf.segment, to_ms;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.time_rows(bigint, int4range, bigint, bigint) IS
    'Part of kafka.read_time(): the stored rows that have records with timestamps (ms) from from_ms up to and without to_ms, each with its extent.';

CREATE OR REPLACE FUNCTION kafka.last_rows(topic_id bigint, partitions int4range, records integer)
RETURNS TABLE (partition integer, first_offset bigint, generation integer, series bigint, segment integer, base_offset bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
#variable_conflict use_column
DECLARE
    start bigint;
    extent record;
    stored record;
    missing bigint;
BEGIN
    FOR number IN lower(partitions)..upper(partitions) - 1 LOOP
        missing := records;
        start := coalesce((SELECT s.log_start_offset FROM kafka.log_starts s WHERE s.topic = topic_id AND s.partition = number), 0);
        FOR extent IN
            SELECT e.*, coalesce(e.last_offset, 9223372036854775806) AS ends_at FROM kafka.extents e
            WHERE e.topic = topic_id AND e.partition = number ORDER BY e.first_offset DESC
        LOOP
            EXIT WHEN missing <= 0 OR extent.ends_at < start;
            CONTINUE WHEN to_regclass(format('kafka.log_%s_%s', extent.series, extent.segment)) IS NULL;
            -- A loop fetches some rows at a time, and no more than it needs.
            FOR stored IN EXECUTE format($query$
                SELECT l.base_offset, l.record_count FROM kafka.log_%s_%s l
                WHERE l.topic = $1 AND l.partition = $2 AND l.base_offset >= $3 AND l.base_offset <= $4 AND l.last_offset >= $5
                  AND NOT l.is_control AND l.record_count > 0
                  AND (NOT l.is_transactional OR (
                      SELECT m.is_commit FROM kafka.markers m
                      WHERE m.topic = l.topic AND m.partition = l.partition
                        AND m.producer_id = coalesce(l.producer_id, l.producer_ids[1]) AND m.marker_offset > l.last_offset
                      ORDER BY m.marker_offset LIMIT 1))
                ORDER BY l.base_offset DESC$query$, extent.series, extent.segment)
            USING topic_id, number, extent.first_offset, extent.ends_at, start
            LOOP
                RETURN QUERY SELECT number, extent.first_offset, extent.generation, extent.series, extent.segment, stored.base_offset;
                missing := missing - stored.record_count;
                EXIT WHEN missing <= 0;
            END LOOP;
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.last_rows(bigint, int4range, integer) IS
    'Part of kafka.tail(): the last stored rows of partitions that have so many records to read, each with its extent.';

CREATE OR REPLACE FUNCTION kafka.are_in(topic_id bigint, partitions integer[], first_offsets bigint[], generations integer[], all_series bigint[], segments integer[])
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT NOT EXISTS (
        SELECT FROM (SELECT DISTINCT * FROM unnest(partitions, first_offsets, generations, all_series, segments)
                     AS p (partition, first_offset, generation, series, segment)) AS w
        LEFT JOIN kafka.extents e ON e.topic = topic_id AND e.partition = w.partition AND e.first_offset = w.first_offset
                                 AND e.generation = w.generation AND e.series = w.series AND e.segment = w.segment
        WHERE e.topic IS NULL);
END;
COMMENT ON FUNCTION kafka.are_in(bigint, integer[], bigint[], integer[], bigint[], integer[]) IS
    'Part of kafka.read_time() and kafka.tail(): are extents still what they were, for the statement that asks?';

CREATE OR REPLACE FUNCTION kafka.time_ms(at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE at WHEN '-infinity' THEN -9223372036854775808 WHEN 'infinity' THEN 9223372036854775807
               ELSE ceil(extract(epoch FROM at) * 1000)::bigint END;
COMMENT ON FUNCTION kafka.time_ms(timestamptz) IS
    'The first whole millisecond since 1970 that is not before a time: timestamp >= at is timestamp_ms >= kafka.time_ms(at).';

CREATE OR REPLACE FUNCTION kafka.read_time(topic text, "from" timestamptz, "to" timestamptz DEFAULT 'infinity', partition integer DEFAULT NULL)
RETURNS SETOF kafka.messages
-- VOLATILE, so that its queries see batches that were unpacked for it.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- The rows are known: each is looked up. Compiling would take longer than most answers.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    place kafka.topics;
    wanted int4range;
    from_ms constant bigint := kafka.time_ms("from");
    to_ms constant bigint := kafka.time_ms("to");
    stored record;
    seen jsonb;
    found_records bigint;
BEGIN
    IF "from" IS NULL OR "to" IS NULL THEN
        RAISE EXCEPTION '"from" and "to" must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = '-infinity and infinity are times.';
    END IF;
    place := kafka.topic_to_read(topic, partition);
    wanted := CASE WHEN partition IS NULL THEN int4range(0, place.partitions) ELSE int4range(partition, partition + 1) END;
    PERFORM kafka.is_unpacked(place.id);
    FOR tries IN 1..100 LOOP
        SELECT array_agg(r.partition) AS partitions, array_agg(r.first_offset) AS first_offsets, array_agg(r.generation) AS generations,
               array_agg(r.series) AS all_series, array_agg(r.segment) AS segments, array_agg(r.base_offset) AS base_offsets
        INTO stored FROM kafka.time_rows(place.id, wanted, from_ms, to_ms) r;
        EXIT WHEN stored.partitions IS NULL;
        RETURN QUERY EXECUTE $query$
            SELECT m.*
            FROM unnest($2, $3, $4, $5) AS p (partition, series, segment, base_offset)
            JOIN kafka.topic_messages m ON m.partition_id = p.partition AND m.series = p.series AND m.segment = p.segment
                                       AND m.batch_base_offset = p.base_offset
            WHERE m.topic_id = $1 AND m.series = ANY ($6) AND m.segment = ANY ($7) AND m.timestamp_ms >= $8 AND m.timestamp_ms < $9
              AND kafka.are_in($1, $2, $10, $11, $3, $4)
            ORDER BY m.partition_id, m.partition_offset$query$
        USING place.id, stored.partitions, stored.all_series, stored.segments, stored.base_offsets,
              ARRAY(SELECT DISTINCT u FROM unnest(stored.all_series) AS u), ARRAY(SELECT DISTINCT u FROM unnest(stored.segments) AS u),
              from_ms, to_ms, stored.first_offsets, stored.generations;
        GET DIAGNOSTICS found_records = ROW_COUNT;
        -- None, when the records have moved, and also when all are of transactions that are open or were aborted.
        EXIT WHEN found_records > 0 OR to_jsonb(stored) = seen;
        seen := to_jsonb(stored);
        IF tries = 100 THEN
            RAISE EXCEPTION 'records of topic "%" move all the time', topic
                USING ERRCODE = 'serialization_failure', HINT = 'Run the statement again.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.read_time(text, timestamptz, timestamptz, integer) IS
    'Records of a topic, or of one partition, with timestamps from "from" up to and without "to", in order of partition and offset. None is left out because it came late. Needs SELECT on the topic''s view.';

CREATE OR REPLACE FUNCTION kafka.tail(topic text, records integer DEFAULT 10, partition integer DEFAULT NULL)
RETURNS SETOF kafka.messages
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    place kafka.topics;
    wanted int4range;
    stored record;
    seen jsonb;
    found_records bigint;
BEGIN
    IF records IS NULL THEN
        RAISE EXCEPTION 'the number of records must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'kafka.read_time() and the topic''s view read all.';
    ELSIF records < 0 THEN
        RAISE EXCEPTION 'the number of records must not be negative, as % is', records
            USING ERRCODE = 'invalid_parameter_value', HINT = 'kafka.tail(topic, 10) gives the last ten.';
    END IF;
    place := kafka.topic_to_read(topic, partition);
    wanted := CASE WHEN partition IS NULL THEN int4range(0, place.partitions) ELSE int4range(partition, partition + 1) END;
    PERFORM kafka.is_unpacked(place.id);
    FOR tries IN 1..100 LOOP
        SELECT array_agg(r.partition) AS partitions, array_agg(r.first_offset) AS first_offsets, array_agg(r.generation) AS generations,
               array_agg(r.series) AS all_series, array_agg(r.segment) AS segments, array_agg(r.base_offset) AS base_offsets
        INTO stored FROM kafka.last_rows(place.id, wanted, records) r;
        EXIT WHEN stored.partitions IS NULL;
        RETURN QUERY EXECUTE $query$
            -- Timestamps and offsets first: of many partitions the values of most would be read for nothing.
            WITH newest AS MATERIALIZED (
                SELECT n.*
                FROM (SELECT i.*, min(i.place) OVER (PARTITION BY i.partition) AS first_place
                      FROM (SELECT p.*, r.stamp, p.base_offset + coalesce(r.delta, r.n) AS place,
                                   row_number() OVER (PARTITION BY p.partition ORDER BY p.base_offset + coalesce(r.delta, r.n) DESC) AS nth
                            FROM unnest($2, $3, $4, $5) AS p (partition, series, segment, base_offset)
                            JOIN kafka.log l ON l.topic = $1 AND l.partition = p.partition AND l.base_offset = p.base_offset
                                            AND l.series = p.series AND l.segment = p.segment
                            CROSS JOIN LATERAL (
                                SELECT coalesce(u.stamp, l.first_timestamp) AS stamp, u.delta, u.n
                                FROM (SELECT unnest(l.timestamps) AS stamp, unnest(l.offset_deltas) AS delta,
                                             generate_series(0, l.record_count - 1) AS n) AS u
                            ) AS r
                            WHERE l.series = ANY ($6) AND l.segment = ANY ($7)
                              AND p.base_offset + coalesce(r.delta, r.n) >= coalesce(
                                  (SELECT s.log_start_offset FROM kafka.log_starts s WHERE s.topic = $1 AND s.partition = p.partition), 0)) AS i
                      WHERE i.nth <= $8) AS n
                ORDER BY n.stamp DESC, n.partition DESC, n.place DESC LIMIT $8
            )
            SELECT m.*
            FROM (SELECT DISTINCT n.partition, n.series, n.segment, n.base_offset, n.first_place FROM newest n) AS p
            JOIN kafka.topic_messages m ON m.partition_id = p.partition AND m.series = p.series AND m.segment = p.segment
                                       AND m.batch_base_offset = p.base_offset AND m.partition_offset >= p.first_place
            WHERE m.topic_id = $1 AND m.series = ANY ($6) AND m.segment = ANY ($7)
              AND (m.timestamp_ms, m.partition_id, m.partition_offset) >= (
                  SELECT n.stamp, n.partition, n.place FROM newest n ORDER BY n.stamp, n.partition, n.place LIMIT 1)
              AND kafka.are_in($1, $2, $9, $10, $3, $4)
            ORDER BY CASE WHEN NOT $11 THEN m.timestamp_ms END, m.partition_id, m.partition_offset$query$
        USING place.id, stored.partitions, stored.all_series, stored.segments, stored.base_offsets,
              ARRAY(SELECT DISTINCT u FROM unnest(stored.all_series) AS u), ARRAY(SELECT DISTINCT u FROM unnest(stored.segments) AS u),
              records, stored.first_offsets, stored.generations, partition IS NOT NULL;
        GET DIAGNOSTICS found_records = ROW_COUNT;
        EXIT WHEN found_records > 0 OR to_jsonb(stored) = seen;
        seen := to_jsonb(stored);
        IF tries = 100 THEN
            RAISE EXCEPTION 'records of topic "%" move all the time', topic
                USING ERRCODE = 'serialization_failure', HINT = 'Run the statement again.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.tail(text, integer, integer) IS
    'The last records of one partition, in order of offset; without a partition those with the latest timestamps among the last ones of each, in order of time. Needs SELECT on the topic''s view.';

CREATE OR REPLACE FUNCTION kafka.segments_of_time(topic text, "from" timestamptz, "to" timestamptz DEFAULT 'infinity') RETURNS integer[]
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place constant kafka.topics := kafka.topic_to_read(topic, NULL);
BEGIN
    IF "from" IS NULL OR "to" IS NULL THEN
        RAISE EXCEPTION '"from" and "to" must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = '-infinity and infinity are times.';
    END IF;
    RETURN ARRAY(SELECT DISTINCT e.segment
                 FROM kafka.time_extents(place.id, int4range(0, place.partitions), kafka.time_ms("from"), kafka.time_ms("to")) e
                 ORDER BY e.segment);
END
$$;
COMMENT ON FUNCTION kafka.segments_of_time(text, timestamptz, timestamptz) IS
    'Numbers of the segments that have all records of a topic with timestamps from "from" up to and without "to". Given to a query of the topic''s view as constants or parameters, segment = ANY (...), they keep it off all others.';
