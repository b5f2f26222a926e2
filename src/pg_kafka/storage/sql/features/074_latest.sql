-- kafka.latest: the newest value of each key of a topic, whether it is compacted or not.
--
-- Keys are read first, of all rows: of each key the last record counts, which is a row's number and a position in it. Then the values of
-- these records are read. A row's arrays are taken out of TOAST only where one of its records counts.
--
-- The topic's view hands out record by record, with the value of each: that is several times as slow. So this reads the log itself, in
-- the name of the schema's owner, for whoever may SELECT from the topic's view.

CREATE OR REPLACE FUNCTION kafka.picked(elements anyarray, positions integer[]) RETURNS anyarray
-- plpgsql takes an array apart once, and then each element costs the same.
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(SELECT elements[p.i] FROM unnest(positions) WITH ORDINALITY AS p (i, n) ORDER BY p.n);
END
$$;
COMMENT ON FUNCTION kafka.picked(anyarray, integer[]) IS 'The elements of an array at some positions, which count from 1.';

CREATE OR REPLACE FUNCTION kafka.latest(topic text)
RETURNS TABLE (partition_id integer, partition_offset bigint, global_offset bigint, key bytea, value bytea, "timestamp" timestamptz, timestamp_ms bigint)
-- VOLATILE, so that its query sees batches that were unpacked for it.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off  -- compiling would take longer than most answers
AS $$
#variable_conflict use_column
DECLARE
    found record;
    -- In whose name the caller's statement runs; current_user is the owner in here.
    asking constant text := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
BEGIN
    SELECT t.id, coalesce(to_regclass('topics.' || quote_ident(t.view_name)), 'kafka.messages'::regclass) AS shown_by INTO found
    FROM kafka.topics t WHERE t.name = latest.topic;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'topic "%" does not exist', topic USING ERRCODE = 'undefined_object';
    END IF;
    IF NOT has_table_privilege(asking, found.shown_by, 'SELECT') THEN
        RAISE EXCEPTION 'permission denied for view %', found.shown_by USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM kafka.is_unpacked(found.id);
    RETURN QUERY EXECUTE format($query$
        WITH stored AS MATERIALIZED (
            -- Arrays in here are what TOAST knows them by, as long as nobody looks into them.
            SELECT row_number() OVER (ORDER BY l.partition, l.base_offset) AS number, l.partition, l.base_offset, l.global_base,
                   l.record_count, l.first_timestamp, l.keys, l.values, l.offset_deltas, l.timestamps, l.batch IS NOT NULL AS is_packed,
                   coalesce(s.log_start_offset, 0) AS start
            FROM kafka.log l
            LEFT JOIN kafka.log_starts s ON s.topic = l.topic AND s.partition = l.partition
            WHERE l.series IN (0, %1$s) AND l.topic = %1$s AND l.last_offset >= coalesce(s.log_start_offset, 0)
              AND NOT l.is_control AND l.record_count > 0
              AND (l.series, l.segment) NOT IN (SELECT h.series, h.segment FROM kafka.segments h WHERE h.state IN ('filling', 'replaced'))
              AND (NOT l.is_transactional OR (
                  SELECT m.is_commit FROM kafka.markers m
                  WHERE m.topic = l.topic AND m.partition = l.partition
                    AND m.producer_id = coalesce(l.producer_id, l.producer_ids[1]) AND m.marker_offset > l.last_offset
                  ORDER BY m.marker_offset LIMIT 1))
        ), newest AS (
            SELECT max(k.place) AS place
            FROM (SELECT s.partition, unnest(s.keys) AS key, (s.number << 32) | generate_series(1, s.record_count) AS place
                  FROM stored s WHERE NOT s.is_packed AND s.keys IS NOT NULL
                  UNION ALL
                  -- It was packed when this statement began: an error, and not a record less.
                  SELECT s.partition, NULL, cardinality(kafka.refuse_packed(%1$s)) FROM stored s WHERE s.is_packed) AS k
            WHERE k.key IS NOT NULL GROUP BY k.partition, k.key
        ), counting AS (
            SELECT n.place >> 32 AS number, array_agg((n.place & 4294967295)::integer) AS positions FROM newest n GROUP BY n.place >> 32
        ), records AS (
            SELECT s.partition, s.base_offset, s.global_base, s.first_timestamp, s.start,
                   unnest(kafka.picked(s.keys, c.positions)) AS key, unnest(kafka.picked(s.values, c.positions)) AS value,
                   unnest(kafka.picked(s.timestamps, c.positions)) AS stamp, unnest(kafka.picked(s.offset_deltas, c.positions)) AS delta,
                   unnest(c.positions) - 1 AS n
            FROM counting c JOIN stored s ON s.number = c.number
        )
        SELECT r.partition, r.base_offset + coalesce(r.delta, r.n), r.global_base + coalesce(r.delta, r.n), r.key, r.value,
               CASE WHEN coalesce(r.stamp, r.first_timestamp) BETWEEN 0 AND 9007199254740991
                    THEN timestamptz 'epoch' + coalesce(r.stamp, r.first_timestamp) * interval '1 millisecond' END,
               coalesce(r.stamp, r.first_timestamp)
        FROM records r WHERE r.value IS NOT NULL AND r.base_offset + coalesce(r.delta, r.n) >= r.start
    $query$, found.id);
END
$$;
COMMENT ON FUNCTION kafka.latest(text) IS
    'The newest record of each key of a topic, whether it is compacted or not; keys whose newest record is a tombstone are left out. A key that was written to several partitions has a row for each. Needs SELECT on the topic''s view.';
