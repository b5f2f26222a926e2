-- kafka.poll: consume records, and commit that, in the caller's own transaction.
--
-- It reads the log's tables itself, in the name of the schema's owner, for whoever may SELECT from a topic's view: so a poll costs the
-- plan of one small query, whatever the number of segments. kafka.extents names the segment.

CREATE OR REPLACE FUNCTION kafka.header_list(header_keys bytea[], header_values bytea[]) RETURNS kafka.header[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- As in kafka.messages: text where it is UTF-8 without NUL, else escaped.
    RETURN (SELECT array_agg(ROW (coalesce(kafka.as_text(h.key), encode(h.key, 'escape')), h.value)::kafka.header ORDER BY h.n)
            FROM unnest(header_keys, header_values) WITH ORDINALITY AS h (key, value, n));
END
$$;
COMMENT ON FUNCTION kafka.header_list(bytea[], bytea[]) IS 'Headers of one record as kafka.messages shows them.';

CREATE OR REPLACE FUNCTION kafka.partitions_with_news(topic_ids bigint[], partition_ids integer[], places bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
#variable_conflict use_column
DECLARE
    segment record;
BEGIN
    FOR segment IN
        SELECT format('kafka.log_%s_%s', e.series, e.segment) AS leaf, array_agg(w.n) AS numbers, array_agg(w.topic_id) AS topics,
               array_agg(w.partition_id) AS partitions, array_agg(w.place) AS places,
               array_agg(w.n) FILTER (WHERE EXISTS (SELECT FROM kafka.extents x WHERE x.topic = w.topic_id AND x.partition = w.partition_id
                                                                                  AND x.first_offset > e.first_offset)) AS more
        FROM unnest(topic_ids, partition_ids, places) WITH ORDINALITY AS w (topic_id, partition_id, place, n)
        CROSS JOIN LATERAL (SELECT x.first_offset, x.series, x.segment FROM kafka.extents x
                            WHERE x.topic = w.topic_id AND x.partition = w.partition_id
                              AND x.first_offset >= coalesce((SELECT max(y.first_offset) FROM kafka.extents y
                                                              WHERE y.topic = w.topic_id AND y.partition = w.partition_id
                                                                AND y.first_offset <= w.place), 0)
                            ORDER BY x.first_offset LIMIT 1) AS e
        GROUP BY e.series, e.segment
    LOOP
        -- What is in the next segment is looked for when the partition is read.
        RETURN QUERY SELECT unnest(segment.more);
        CONTINUE WHEN to_regclass(segment.leaf) IS NULL;
        RETURN QUERY EXECUTE format($query$
            SELECT w.n FROM unnest($1, $2, $3, $4) AS w (n, topic, partition, place)
            CROSS JOIN LATERAL (
                SELECT l.is_transactional, l.is_control, l.producer_id, l.producer_ids, l.last_offset FROM %1$s l
                WHERE l.topic = w.topic AND l.partition = w.partition AND l.last_offset >= w.place
                  AND l.base_offset >= coalesce((SELECT b.base_offset FROM %1$s b
                                                 WHERE b.topic = w.topic AND b.partition = w.partition AND b.base_offset <= w.place
                                                 ORDER BY b.base_offset DESC LIMIT 1), w.place)
                ORDER BY l.base_offset LIMIT 1) AS f
            WHERE NOT w.n = ANY ($5)
              -- An open transaction is no news.
              AND (NOT f.is_transactional OR f.is_control OR EXISTS (
                  SELECT FROM kafka.markers m
                  WHERE m.topic = w.topic AND m.partition = w.partition
                    AND m.producer_id = coalesce(f.producer_id, f.producer_ids[1]) AND m.marker_offset > f.last_offset))
        $query$, segment.leaf)
        USING segment.numbers, segment.topics, segment.partitions, segment.places, coalesce(segment.more, '{}');
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.partitions_with_news(bigint[], integer[], bigint[]) IS
    'Part of kafka.poll(): the positions in the arrays of the partitions in which something can be consumed at or behind the given place, in no order. Index look-ups only.';

CREATE OR REPLACE FUNCTION kafka.poll(
    group_id text, topics text[], max_records integer DEFAULT 100, start text DEFAULT 'earliest', max_bytes integer DEFAULT 16777216)
RETURNS TABLE (topic text, partition_id integer, partition_offset bigint, key bytea, value bytea,
               headers kafka.header[], "timestamp" timestamptz, timestamp_ms bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
ROWS 100
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
#variable_conflict use_column
DECLARE
    partitions_at_once constant integer := 100;
    the_group record;
    state record;
    wanted record;
    latest record;
    extent record;
    topic_ids bigint[];
    partition_ids integer[];
    names text[];
    places bigint[];
    unplaced bigint[];
    found_partitions integer := 0;
    given integer := 0;
    given_bytes bigint := 0;
    place bigint;
    tries integer;
    is_full boolean := false;
    is_at_open boolean;
    is_there boolean;
    has_next boolean;
    -- What is stored.
    row_base bigint;
    row_end bigint;
    first_element integer;
    elements integer;
    is_control boolean;
    is_committed boolean;
    producer bigint;
    first_stamp bigint;
    mean_bytes integer;
    record_bytes integer;
    nth integer;
    stored_values bytea[];
    stored_keys bytea[];
    stamps bigint[];
    deltas integer[];
    header_ends integer[];
    header_keys bytea[];
    header_values bytea[];
BEGIN
    IF group_id IS NULL OR topics IS NULL OR max_records IS NULL OR start IS NULL OR max_bytes IS NULL
       OR array_position(topics, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'group_id, topics, max_records, start and max_bytes must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    ELSIF max_records NOT BETWEEN 0 AND 1000000 THEN
        RAISE EXCEPTION 'max_records must be from 0 to 1000000, not %', max_records
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Poll again for more.';
    ELSIF max_bytes < 1 THEN
        RAISE EXCEPTION 'max_bytes must be at least 1, not %', max_bytes
            USING ERRCODE = 'invalid_parameter_value', HINT = 'One record is given whatever its size.';
    ELSIF start NOT IN ('earliest', 'latest', 'none') THEN
        RAISE EXCEPTION 'start must be earliest, latest or none, not %', quote_literal(start)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'To begin elsewhere, call kafka.seek() first.';
    ELSIF cardinality(topics) NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'a poll names 1 to 1000 topics, not %', cardinality(topics)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT name FROM kafka.topics tells which ones there are.';
    END IF;

    -- The group. Whoever removes one takes this lock in exclusive mode.
    IF NOT pg_try_advisory_xact_lock_shared(1885825897, kafka.sql_group_lock(group_id)) THEN
        RETURN;
    END IF;
    SELECT g.number, g.polled_at INTO the_group FROM kafka.sql_groups g WHERE g.group_id = poll.group_id;
    IF NOT FOUND THEN
        PERFORM FROM kafka.readable_topics(topics);
        the_group.number := kafka.claim_sql_group(group_id, false);
        IF the_group.number IS NULL THEN
            RETURN;
        END IF;
        the_group.polled_at := clock_timestamp();
    END IF;
    IF the_group.polled_at < clock_timestamp() - interval '10 minutes'
       AND pg_try_advisory_xact_lock(kafka.sql_partition_lock(group_id, -2, -1)) THEN
        UPDATE kafka.sql_groups g SET polled_at = clock_timestamp()
        WHERE g.number = the_group.number AND g.polled_at < clock_timestamp() - interval '10 minutes';
    END IF;

    -- All partitions, and where the group is in them. A look without locks: those with something to consume are looked at again.
    FOR wanted IN SELECT r.id, r.name, r.partitions FROM kafka.readable_topics(topics) r LOOP
        PERFORM kafka.is_unpacked(wanted.id);
        IF NOT EXISTS (SELECT FROM kafka.sql_group_topics s WHERE s.group_number = the_group.number AND s.topic_id = wanted.id) THEN
            CONTINUE WHEN NOT kafka.begin_sql_topic(group_id, the_group.number, wanted.id, wanted.name, wanted.partitions, start, false);
        END IF;
        FOR n IN 0..wanted.partitions - 1 LOOP
            topic_ids := topic_ids || wanted.id;
            partition_ids := partition_ids || n;
            names := names || wanted.name;
        END LOOP;
    END LOOP;
    IF topic_ids IS NULL OR max_records = 0 THEN
        RETURN;
    END IF;
    SELECT s.turn, s.active, s.counting INTO state FROM kafka.sql_commit_state s;
    SELECT array_agg(greatest(p.next_offset, s.log_start_offset, 0) ORDER BY w.n),
           array_agg(w.n) FILTER (WHERE start = 'latest' AND p.commit_number IS NOT NULL AND p.next_offset IS NULL)
    INTO places, unplaced
    FROM unnest(topic_ids, partition_ids) WITH ORDINALITY AS w (topic_id, partition_id, n)
    LEFT JOIN (SELECT DISTINCT ON (x.n) x.n, x.commit_number, x.next_offset
               FROM kafka.sql_positions(the_group.number, topic_ids, partition_ids, state.counting) x
               ORDER BY x.n, x.commit_number DESC) AS p ON p.n = w.n
    LEFT JOIN kafka.log_starts s ON s.topic = w.topic_id AND s.partition = w.partition_id;

    -- In any order: so no partition waits because of others that always have records.
    FOR wanted IN
        SELECT topic_ids[c.n] AS topic_id, partition_ids[c.n] AS partition_id, names[c.n] AS name
        FROM (SELECT f.n FROM kafka.partitions_with_news(topic_ids, partition_ids, places) AS f (n)
              UNION SELECT unnest(unplaced)) AS c ORDER BY random()
    LOOP
        EXIT WHEN is_full OR found_partitions = partitions_at_once;
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(kafka.sql_partition_lock(group_id, wanted.topic_id, wanted.partition_id));
        SELECT p.commit_number, p.next_offset,
               coalesce((SELECT s.log_start_offset FROM kafka.log_starts s
                         WHERE s.topic = wanted.topic_id AND s.partition = wanted.partition_id), 0) AS begins_at
        INTO latest
        FROM (VALUES (1)) AS one LEFT JOIN
             kafka.sql_positions(the_group.number, ARRAY[wanted.topic_id], ARRAY[wanted.partition_id], state.counting) p ON true
        ORDER BY p.commit_number DESC LIMIT 1;
        IF latest.commit_number IS NULL THEN
            place := latest.begins_at;  -- a partition that was added to the topic
        ELSIF latest.next_offset >= latest.begins_at THEN
            place := latest.next_offset;
        ELSIF start = 'none' THEN
            RAISE EXCEPTION 'group "%" has no offset that is still in partition % of topic "%"', group_id, wanted.partition_id, wanted.name
                USING ERRCODE = 'KF013',
                      DETAIL = format('It is at %s, the partition begins at %s.', coalesce(latest.next_offset::text, 'no offset'), latest.begins_at),
                      HINT = format('SELECT * FROM kafka.seek(%L, %L, ''earliest'', partition => %s) goes on there.', group_id, wanted.name, wanted.partition_id);
        ELSIF start = 'latest' THEN
            place := greatest(kafka.last_stable_offset(wanted.topic_id, wanted.partition_id), latest.begins_at);
        ELSE
            place := latest.begins_at;
        END IF;

        topic := wanted.name;
        partition_id := wanted.partition_id;
        is_at_open := false;
        tries := 0;
        LOOP
            -- The segment that holds the place, and where the next one begins.
            SELECT e.first_offset, e.series, e.segment, n.first_offset AS ends_at INTO extent
            FROM (SELECT x.first_offset, x.series, x.segment FROM kafka.extents x
                  WHERE x.topic = wanted.topic_id AND x.partition = wanted.partition_id
                    AND x.first_offset >= coalesce((SELECT y.first_offset FROM kafka.extents y
                                                    WHERE y.topic = wanted.topic_id AND y.partition = wanted.partition_id
                                                      AND y.first_offset <= place ORDER BY y.first_offset DESC LIMIT 1), place)
                  ORDER BY x.first_offset LIMIT 1) AS e
            LEFT JOIN LATERAL (SELECT x.first_offset FROM kafka.extents x
                               WHERE x.topic = wanted.topic_id AND x.partition = wanted.partition_id AND x.first_offset > e.first_offset
                               ORDER BY x.first_offset LIMIT 1) AS n ON true;
            EXIT WHEN NOT FOUND;
            IF to_regclass(format('kafka.log_%s_%s', extent.series, extent.segment)) IS NOT NULL THEN
                -- Stored rows in their order, one by one. Where offsets have no gaps, only the elements of the arrays that are wanted.
                FOR row_base, row_end, first_element, elements, is_control, producer, first_stamp, mean_bytes,
                    stored_values, stored_keys, stamps, deltas, header_ends, header_keys, header_values
                IN EXECUTE format($query$
                    SELECT l.base_offset, l.last_offset, l.first_element, l.last_element - l.first_element + 1, l.is_control,
                           CASE WHEN l.is_transactional THEN coalesce(l.producer_id, l.producer_ids[1]) END, l.first_timestamp,
                           l.row_bytes / greatest(l.record_count, 1),
                           CASE WHEN NOT l.is_control AND l.record_count > 0
                                THEN (coalesce(l.values, kafka.refuse_packed(l.topic)))[l.first_element:l.last_element] END,
                           l.keys[l.first_element:l.last_element], l.timestamps[l.first_element:l.last_element], l.offset_deltas,
                           l.header_ends, l.header_keys, l.header_values
                    FROM (SELECT s.*, CASE WHEN s.offset_deltas IS NULL THEN greatest($3 - s.base_offset, 0) + 1 ELSE 1 END::integer AS first_element,
                                 CASE WHEN s.offset_deltas IS NULL THEN least(greatest($3 - s.base_offset, 0) + $5, s.record_count)
                                      ELSE s.record_count END::integer AS last_element
                          FROM %1$s s
                          WHERE s.topic = $1 AND s.partition = $2 AND s.last_offset >= $3 AND s.base_offset < $4
                            AND s.base_offset >= coalesce((SELECT b.base_offset FROM %1$s b
                                                           WHERE b.topic = $1 AND b.partition = $2 AND b.base_offset <= $3
                                                           ORDER BY b.base_offset DESC LIMIT 1), $3)
                          ORDER BY s.base_offset) AS l
                $query$, format('kafka.log_%s_%s', extent.series, extent.segment))
                USING wanted.topic_id, wanted.partition_id, place, coalesce(extent.ends_at, 9223372036854775807), max_records - given
                LOOP
                    IF is_control THEN
                        elements := 0;
                    ELSIF producer IS NOT NULL AND elements > 0 THEN
                        is_committed := NULL;
                        SELECT m.is_commit INTO is_committed FROM kafka.markers m
                        WHERE m.topic = wanted.topic_id AND m.partition = wanted.partition_id AND m.producer_id = producer
                          AND m.marker_offset > row_end ORDER BY m.marker_offset LIMIT 1;
                        -- Never beyond the first open transaction: its records come before those behind it, or never.
                        is_at_open := is_committed IS NULL;
                        EXIT WHEN is_at_open;
                        CONTINUE WHEN NOT is_committed;
                    END IF;
                    IF elements >= 8 AND deltas IS NULL AND header_ends IS NULL
                       AND given_bytes + elements::bigint * mean_bytes <= max_bytes THEN
                        -- What the loop below does, for many records at once.
                        elements := least(elements, max_records - given);
                        place := row_base + first_element - 1;
                        RETURN QUERY
                        SELECT wanted.name, wanted.partition_id, place + u.n, u.key, u.value, NULL::kafka.header[],
                               CASE WHEN u.stamp BETWEEN 0 AND 9007199254740991
                                    THEN timestamptz 'epoch' + u.stamp * interval '1 millisecond' END, u.stamp
                        FROM (SELECT r.n, r.key, r.value, coalesce(r.stamp, first_stamp) AS stamp
                              FROM (SELECT generate_series(0, elements - 1) AS n, unnest(stored_keys[1:elements]) AS key,
                                           unnest(stored_values[1:elements]) AS value, unnest(stamps[1:elements]) AS stamp) AS r) AS u;
                        place := place + elements;
                        given := given + elements;
                        given_bytes := given_bytes + elements::bigint * mean_bytes;
                        is_full := given = max_records;
                        elements := 0;
                    END IF;
                    FOR i IN 1..elements LOOP
                        partition_offset := row_base + coalesce(deltas[i], first_element + i - 2);
                        CONTINUE WHEN partition_offset < place;
                        key := stored_keys[i];
                        value := stored_values[i];
                        record_bytes := greatest(coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0), mean_bytes);
                        is_full := given > 0 AND given_bytes + record_bytes > max_bytes;
                        EXIT WHEN is_full;
                        timestamp_ms := coalesce(stamps[i], first_stamp);
                        -- As in kafka.messages.
                        "timestamp" := CASE WHEN timestamp_ms BETWEEN 0 AND 9007199254740991
                                            THEN timestamptz 'epoch' + timestamp_ms * interval '1 millisecond' END;
                        headers := NULL;
                        IF header_ends IS NOT NULL THEN
                            nth := first_element + i - 1;
                            headers := kafka.header_list(header_keys[coalesce(header_ends[nth - 1], 0) + 1:header_ends[nth]],
                                                         header_values[coalesce(header_ends[nth - 1], 0) + 1:header_ends[nth]]);
                        END IF;
                        RETURN NEXT;
                        place := partition_offset + 1;
                        given := given + 1;
                        given_bytes := given_bytes + record_bytes;
                        is_full := given = max_records;
                        EXIT WHEN is_full;
                    END LOOP;
                    EXIT WHEN is_full;
                    place := row_end + 1;
                END LOOP;
            END IF;
            EXIT WHEN is_full OR is_at_open;
            -- Each statement has a snapshot of its own in READ COMMITTED. Records may have moved to another segment; none gets a number
            -- twice. And when this segment was the last one, more may have come to it before the next one began, which may be there by now.
            SELECT EXISTS (SELECT FROM kafka.extents e
                           WHERE e.topic = wanted.topic_id AND e.partition = wanted.partition_id AND e.first_offset = extent.first_offset
                             AND (e.series, e.segment) IS NOT DISTINCT FROM (extent.series, extent.segment)),
                   EXISTS (SELECT FROM kafka.extents e
                           WHERE e.topic = wanted.topic_id AND e.partition = wanted.partition_id AND e.first_offset > extent.first_offset)
            INTO is_there, has_next;
            EXIT WHEN is_there AND NOT has_next;
            IF is_there AND extent.ends_at IS NOT NULL THEN
                place := greatest(place, extent.ends_at);
            ELSE
                tries := tries + 1;
                IF tries = 100 THEN
                    RAISE EXCEPTION 'records of topic "%" move all the time', topic
                        USING ERRCODE = 'serialization_failure', HINT = 'Run the transaction again.';
                END IF;
            END IF;
        END LOOP;

        found_partitions := found_partitions + 1;
        IF place IS DISTINCT FROM latest.next_offset
           AND NOT kafka.add_sql_commit(the_group.number, wanted.topic_id, wanted.partition_id, coalesce(latest.commit_number, 0) + 1,
                                        place, state.active, state.turn) THEN
            -- The tables have turned.
            PERFORM kafka.sql_commit(the_group.number, wanted.topic_id, wanted.partition_id, coalesce(latest.commit_number, 0) + 1, place);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.poll(text, text[], integer, text, integer) IS
    'Consume records for a group, in order within each partition, and commit its offsets in the caller''s transaction: rolled back means not consumed. Partitions that another open transaction has polled are skipped, and no open transaction of Kafka''s producers is passed. start: where to begin without an offset, or where that was removed. Needs SELECT on the topics'' views.';

CREATE OR REPLACE FUNCTION kafka.poll(
    group_id text, topics text, max_records integer DEFAULT 100, start text DEFAULT 'earliest', max_bytes integer DEFAULT 16777216)
RETURNS TABLE (topic text, partition_id integer, partition_offset bigint, key bytea, value bytea,
               headers kafka.header[], "timestamp" timestamptz, timestamp_ms bigint)
LANGUAGE sql VOLATILE
ROWS 100
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM kafka.poll(group_id, ARRAY[topics], max_records, start, max_bytes)
$$;
COMMENT ON FUNCTION kafka.poll(text, text, integer, text, integer) IS 'kafka.poll() of one topic.';
