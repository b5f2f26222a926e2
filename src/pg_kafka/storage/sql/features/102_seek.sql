-- kafka.seek: where a group that SQL drives goes on, set by hand.

CREATE OR REPLACE FUNCTION kafka.offset_at(topic_id bigint, partition integer, at_ms bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
#variable_conflict use_column
DECLARE
    begins_at bigint;
    segment record;
    found_at bigint;
BEGIN
    SELECT coalesce((SELECT s.log_start_offset FROM kafka.log_starts s
                     WHERE s.topic = offset_at.topic_id AND s.partition = offset_at.partition), 0) INTO begins_at;
    FOR segment IN
        SELECT format('kafka.log_%s_%s', e.series, e.segment) AS leaf, e.first_offset,
               coalesce(lead(e.first_offset) OVER (ORDER BY e.first_offset), 9223372036854775807) AS ends_at, e.max_timestamp
        FROM kafka.extents e WHERE e.topic = offset_at.topic_id AND e.partition = offset_at.partition ORDER BY e.first_offset
    LOOP
        CONTINUE WHEN segment.ends_at <= begins_at OR segment.max_timestamp < at_ms OR to_regclass(segment.leaf) IS NULL;
        -- The small columns of the partition's rows there, and the timestamps of the one that is found.
        EXECUTE format($query$
            SELECT f.found_at
            FROM (SELECT l.base_offset, l.record_count, l.offset_deltas, l.timestamps FROM %s l
                  WHERE l.topic = $1 AND l.partition = $2 AND l.base_offset >= $3 AND l.base_offset < $4
                    AND l.last_offset >= $5 AND l.max_timestamp >= $6 AND NOT l.is_control AND l.record_count > 0
                  ORDER BY l.base_offset) AS r
            CROSS JOIN LATERAL (
                SELECT min(u.place) AS found_at
                FROM (SELECT r.base_offset + coalesce(r.offset_deltas[n], n - 1) AS place, r.timestamps[n] AS stamp
                      FROM generate_series(1, r.record_count) AS n) AS u
                WHERE u.place >= $5 AND coalesce(u.stamp, $6) >= $6) AS f
            WHERE f.found_at IS NOT NULL
            LIMIT 1$query$, segment.leaf)
        INTO found_at USING offset_at.topic_id, offset_at.partition, segment.first_offset, segment.ends_at, begins_at, at_ms;
        IF found_at IS NOT NULL THEN
            RETURN found_at;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.offset_at(bigint, integer, bigint) IS
    'Offset of the first record of a partition whose timestamp, ms since the epoch, is not below this one; NULL when there is none.';

CREATE OR REPLACE FUNCTION kafka.move_sql_group(
    group_id text, topic text, partition integer, dry_run boolean, place text, to_offset bigint, at_ms bigint)
RETURNS TABLE (partition_id integer, previous_offset bigint, new_offset bigint, end_offset bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '10s'
AS $$
#variable_conflict use_column
DECLARE
    found_topic record;
    number bigint;
    state record;
    latest record;
    log_start bigint;
BEGIN
    IF group_id IS NULL OR topic IS NULL OR dry_run IS NULL OR num_nonnulls(place, to_offset, at_ms) <> 1 THEN
        RAISE EXCEPTION 'group_id, topic, target and dry_run must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT r.id, r.name, r.partitions INTO found_topic FROM kafka.readable_topics(ARRAY[topic]) r;
    IF partition NOT BETWEEN 0 AND found_topic.partitions - 1 THEN
        RAISE EXCEPTION 'topic "%" has no partition %', topic, partition
            USING ERRCODE = 'KF002', HINT = format('Its partitions are 0 to %s.', found_topic.partitions - 1);
    ELSIF to_offset IS NOT NULL AND partition IS NULL AND found_topic.partitions > 1 THEN
        RAISE EXCEPTION 'an offset means something in one partition, and topic "%" has %', topic, found_topic.partitions
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name it: partition => 0.';
    END IF;
    SELECT g.number INTO number FROM kafka.sql_groups g WHERE g.group_id = move_sql_group.group_id;
    IF NOT dry_run THEN
        BEGIN
            PERFORM pg_advisory_xact_lock_shared(1885825897, kafka.sql_group_lock(group_id));
            IF number IS NULL THEN
                number := kafka.claim_sql_group(group_id, true);
            END IF;
            PERFORM kafka.begin_sql_topic(group_id, number, found_topic.id, found_topic.name, found_topic.partitions, 'earliest', true);
            FOR n IN coalesce(partition, 0)..coalesce(partition, found_topic.partitions - 1) LOOP
                PERFORM pg_advisory_xact_lock(kafka.sql_partition_lock(group_id, found_topic.id, n));
            END LOOP;
        EXCEPTION WHEN lock_not_available THEN
            RAISE EXCEPTION 'group "%" is polled by a transaction that has been open for more than 10 seconds', group_id
                USING ERRCODE = 'lock_not_available', HINT = 'Its consumers have to end their transactions first.';
        END;
    END IF;
    SELECT s.turn, s.active, s.counting INTO state FROM kafka.sql_commit_state s;
    FOR n IN coalesce(partition, 0)..coalesce(partition, found_topic.partitions - 1) LOOP
        SELECT p.commit_number, p.next_offset INTO latest
        FROM kafka.sql_positions(number, ARRAY[found_topic.id], ARRAY[n], state.counting) p ORDER BY p.commit_number DESC LIMIT 1;
        previous_offset := latest.next_offset;
        partition_id := n;
        SELECT coalesce((SELECT s.log_start_offset FROM kafka.log_starts s WHERE s.topic = found_topic.id AND s.partition = n), 0)
        INTO log_start;
        end_offset := greatest(kafka.end_offset(found_topic.id, n), log_start);
        new_offset := CASE WHEN place = 'earliest' THEN log_start
                           WHEN place = 'latest' THEN greatest(kafka.last_stable_offset(found_topic.id, n), log_start)
                           WHEN to_offset IS NOT NULL THEN to_offset
                           ELSE coalesce(kafka.offset_at(found_topic.id, n, at_ms), end_offset) END;
        IF new_offset NOT BETWEEN log_start AND end_offset THEN
            RAISE EXCEPTION 'offset % is not in partition % of topic "%"', new_offset, n, topic
                USING ERRCODE = 'KF013', HINT = format('The partition has offsets from %s, and ends at %s.', log_start, end_offset);
        END IF;
        IF NOT dry_run THEN
            PERFORM kafka.sql_commit(number, found_topic.id, n, coalesce(latest.commit_number, 0) + 1, new_offset);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.move_sql_group(text, text, integer, boolean, text, bigint, bigint) IS 'What the three forms of kafka.seek() have in common.';

CREATE OR REPLACE FUNCTION kafka.seek(group_id text, topic text, target bigint, partition integer DEFAULT NULL, dry_run boolean DEFAULT false)
RETURNS TABLE (partition_id integer, previous_offset bigint, new_offset bigint, end_offset bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM kafka.move_sql_group(group_id, topic, partition, dry_run, NULL, target, NULL)
$$;
COMMENT ON FUNCTION kafka.seek(text, text, bigint, integer, boolean) IS
    'Have a group that SQL drives go on at an offset, which is the next one that it consumes. Takes part in the caller''s transaction, and waits up to 10 seconds for others that have polled the partition. dry_run: only tell.';

CREATE OR REPLACE FUNCTION kafka.seek(group_id text, topic text, target timestamptz, partition integer DEFAULT NULL, dry_run boolean DEFAULT false)
RETURNS TABLE (partition_id integer, previous_offset bigint, new_offset bigint, end_offset bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM kafka.move_sql_group(group_id, topic, partition, dry_run, NULL, NULL,
        CASE WHEN isfinite(target) THEN ceil(extract(epoch FROM target) * 1000)::bigint
             WHEN target > 'epoch' THEN 9223372036854775807 ELSE 0 END)
$$;
COMMENT ON FUNCTION kafka.seek(text, text, timestamptz, integer, boolean) IS
    'The same by time: the first record with this timestamp or a later one, in each partition; the end where there is none.';

CREATE OR REPLACE FUNCTION kafka.seek(group_id text, topic text, target text, partition integer DEFAULT NULL, dry_run boolean DEFAULT false)
RETURNS TABLE (partition_id integer, previous_offset bigint, new_offset bigint, end_offset bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at timestamptz;
BEGIN
    IF target IS NULL OR target IN ('earliest', 'latest') THEN
        RETURN QUERY SELECT * FROM kafka.move_sql_group(group_id, topic, partition, dry_run, target, NULL, NULL);
    ELSIF target ~ '^[0-9]{1,18}$' THEN
        RETURN QUERY SELECT * FROM kafka.seek(group_id, topic, target::bigint, partition, dry_run);
    ELSE
        BEGIN
            at := target::timestamptz;
        EXCEPTION WHEN data_exception THEN
            RAISE EXCEPTION 'target must be earliest, latest, an offset or a time, not %', quote_literal(target)
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Such as ''2026-01-31 12:00+00''.';
        END;
        RETURN QUERY SELECT * FROM kafka.seek(group_id, topic, at, partition, dry_run);
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.seek(text, text, text, integer, boolean) IS 'The same to ''earliest'' or ''latest'', or to an offset or a time that is written as text.';

CREATE OR REPLACE FUNCTION kafka.grant_consumer(role name, topic text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM kafka.grant_reader(role, topic);
    EXECUTE format('GRANT EXECUTE ON FUNCTION kafka.poll(text, text, integer, text, integer), kafka.poll(text, text[], integer, text, integer),
                    kafka.seek(text, text, bigint, integer, boolean), kafka.seek(text, text, timestamptz, integer, boolean),
                    kafka.seek(text, text, text, integer, boolean) TO %I', role);
END
$$;
COMMENT ON FUNCTION kafka.grant_consumer(name, text) IS
    'Let a role read a topic by SQL, and consume it by kafka.poll() and kafka.seek(). For the owner of the schema.';
