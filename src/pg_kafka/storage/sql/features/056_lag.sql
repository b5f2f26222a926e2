-- How far consumer groups are behind, in records and in time.
--
-- The time is that of the log: when the broker appended the first record that a group has not read. It is found by the extents and one
-- look-up in the index of a segment, whatever the size of the log.

CREATE OR REPLACE FUNCTION kafka.end_offset(topic_id bigint, partition integer) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    newest record;
    known bigint;
    stored bigint;
BEGIN
    SELECT greatest(coalesce((SELECT s.log_start_offset FROM kafka.log_starts s
                              WHERE s.topic = topic_id AND s.partition = end_offset.partition), 0),
                    coalesce((SELECT c.next_offset FROM kafka.partition_checkpoints c
                              WHERE c.topic = topic_id AND c.partition = end_offset.partition), 0)) INTO known;
    SELECT e.first_offset, format('kafka.log_%s_%s', e.series, e.segment) AS leaf INTO newest
    FROM kafka.extents e
    WHERE e.topic = topic_id AND e.partition = end_offset.partition ORDER BY e.first_offset DESC LIMIT 1;
    -- The segment may have been freed since, and then nothing in it counts.
    IF to_regclass(newest.leaf) IS NOT NULL THEN
        EXECUTE format('SELECT l.last_offset + 1 FROM %s l WHERE l.topic = $1 AND l.partition = $2
                        ORDER BY l.base_offset DESC LIMIT 1', newest.leaf)
        INTO stored USING topic_id, partition;
    END IF;
    RETURN greatest(known, newest.first_offset, stored);
END
$$;
COMMENT ON FUNCTION kafka.end_offset(bigint, integer) IS
    'Where a partition ends: the offset of its next record. Index look-ups only, whatever the size of the log.';

CREATE OR REPLACE FUNCTION kafka.unread_row(leaf text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
RETURN format($query$
    -- Of w (topic, partition, place): the first stored row at or behind the place that has something to read. Ends of transactions are
    -- nothing to read, nor are records of aborted ones, nor rows that compaction has emptied. At most a thousand rows are looked at: then
    -- the last of them counts.
    SELECT r.append_time
    FROM (SELECT l.base_offset, l.append_time, row_number() OVER (ORDER BY l.base_offset) AS n,
                 l.record_count > 0 AND NOT l.is_control
                 AND (l.base_offset >= w.place OR l.offset_deltas IS NULL
                      OR l.base_offset + l.offset_deltas[l.record_count] >= w.place)
                 AND (NOT l.is_transactional OR coalesce((
                     SELECT m.is_commit FROM kafka.markers m
                     WHERE m.topic = l.topic AND m.partition = l.partition
                       AND m.producer_id = coalesce(l.producer_id, l.producer_ids[1]) AND m.marker_offset > l.last_offset
                     ORDER BY m.marker_offset LIMIT 1), true)) AS is_unread
          FROM (SELECT * FROM %1$s s
                WHERE s.topic = w.topic AND s.partition = w.partition AND s.last_offset >= w.place
                  AND s.base_offset >= coalesce((SELECT b.base_offset FROM %1$s b
                                                 WHERE b.topic = w.topic AND b.partition = w.partition AND b.base_offset <= w.place
                                                 ORDER BY b.base_offset DESC LIMIT 1), w.place)
                ORDER BY s.base_offset LIMIT 1000) AS l) AS r
    WHERE r.is_unread OR r.n = 1000
    ORDER BY r.base_offset LIMIT 1$query$, leaf);
COMMENT ON FUNCTION kafka.unread_row(text) IS
    'Part of kafka.unread_since() and kafka.unread_times(): the query that looks into one segment. Index (topic, partition, base_offset).';

CREATE OR REPLACE FUNCTION kafka.unread_since(topic_id bigint, partition integer, from_offset bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- A segment that is small today is planned as what it becomes: rows by the index, in its order, and no more than are asked for.
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
DECLARE
    place bigint;
    extent record;
    stored record;
    found_ms bigint;
BEGIN
    -- What is below the log start is gone, and the first record that there is counts.
    SELECT greatest(from_offset, coalesce((SELECT s.log_start_offset FROM kafka.log_starts s
                                           WHERE s.topic = topic_id AND s.partition = unread_since.partition), 0)) INTO place;
    FOR extent IN
        SELECT format('kafka.log_%s_%s', e.series, e.segment) AS leaf FROM kafka.extents e
        WHERE e.topic = topic_id AND e.partition = unread_since.partition
          AND e.first_offset >= coalesce((
              SELECT max(x.first_offset) FROM kafka.extents x
              WHERE x.topic = topic_id AND x.partition = unread_since.partition AND x.first_offset <= place), 0)
        ORDER BY e.first_offset
    LOOP
        -- The segment may have been freed since, and then nothing in it counts.
        IF to_regclass(extent.leaf) IS NOT NULL THEN
            -- Nearly always the place is in an ordinary row. That is planned in a tenth of the time.
            EXECUTE format('SELECT l.append_time, l.last_offset, NOT l.is_transactional AND l.record_count > 0 AND l.offset_deltas IS NULL AS is_plain
                            FROM %s l WHERE l.topic = $1 AND l.partition = $2 AND l.base_offset <= $3
                            ORDER BY l.base_offset DESC LIMIT 1', extent.leaf)
            INTO stored USING topic_id, partition, place;
            IF stored.last_offset >= place AND stored.is_plain THEN
                RETURN stored.append_time;
            END IF;
            EXECUTE format('SELECT f.append_time FROM (VALUES ($1, $2, $3)) AS w (topic, partition, place) CROSS JOIN LATERAL (%s) AS f',
                           kafka.unread_row(extent.leaf))
            INTO found_ms USING topic_id, partition, place;
            IF found_ms IS NOT NULL THEN
                RETURN found_ms;
            END IF;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.unread_since(bigint, integer, bigint) IS
    'When the first record of a partition at or behind an offset was appended, ms since the epoch by the broker''s clock; NULL when there is none. Ends of transactions and aborted records are left out. Index look-ups only, whatever the size of the log.';

CREATE OR REPLACE FUNCTION kafka.unread_times(topic_ids bigint[], partitions integer[], from_offsets bigint[])
RETURNS TABLE (n bigint, append_time bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
#variable_conflict use_column
DECLARE
    segment record;
BEGIN
    FOR segment IN
        SELECT format('kafka.log_%s_%s', e.series, e.segment) AS leaf, array_agg(p.n) AS numbers, array_agg(p.topic) AS topics,
               array_agg(p.partition) AS partitions, array_agg(p.place) AS places
        FROM (SELECT w.n, w.topic, w.partition, greatest(w.from_offset, coalesce(s.log_start_offset, 0)) AS place
              FROM unnest(topic_ids, partitions, from_offsets) WITH ORDINALITY AS w (topic, partition, from_offset, n)
              LEFT JOIN kafka.log_starts s ON s.topic = w.topic AND s.partition = w.partition
              OFFSET 0) AS p
        CROSS JOIN LATERAL (SELECT x.series, x.segment FROM kafka.extents x
                            WHERE x.topic = p.topic AND x.partition = p.partition AND x.first_offset <= p.place
                            ORDER BY x.first_offset DESC LIMIT 1) AS e
        GROUP BY e.series, e.segment
    LOOP
        CONTINUE WHEN to_regclass(segment.leaf) IS NULL;
        -- Nearly always the segment with the place has a record behind it; otherwise the next ones are looked into.
        RETURN QUERY EXECUTE format(
            'SELECT w.n, coalesce(f.append_time, kafka.unread_since(w.topic, w.partition, w.place))
             FROM unnest($1, $2, $3, $4) AS w (n, topic, partition, place) LEFT JOIN LATERAL (%s) AS f ON true',
            kafka.unread_row(segment.leaf))
        USING segment.numbers, segment.topics, segment.partitions, segment.places;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.unread_times(bigint[], integer[], bigint[]) IS
    'kafka.unread_since() of many places: n is the position in the arrays. Places of which nothing is known have no row, or NULL.';

CREATE OR REPLACE VIEW kafka.consumer_lag AS
SELECT l.group_id, l.topic, l.partition, l.committed_offset, e.end_offset, g.lag, l.member_id, m.client_id, m.client_host,
       CASE WHEN g.lag > 0
            THEN greatest(round(extract(epoch FROM statement_timestamp()) - u.append_time / 1000.0, 3), 0)
            ELSE g.lag END::double precision AS lag_seconds
FROM (SELECT group_id, t.name AS topic, partition_id AS partition, o.committed_offset, a.member_id, topic_id
      FROM kafka.consumer_offsets o
      FULL JOIN (SELECT x.group_id, y.id AS topic_id, x.partition AS partition_id, x.member_id
                 FROM kafka.group_assignments x JOIN kafka.topics y ON y.name = x.topic) AS a
          USING (group_id, topic_id, partition_id)
      JOIN kafka.topics t ON t.id = topic_id) AS l
LEFT JOIN kafka.group_members m ON m.group_id = l.group_id AND m.member_id = l.member_id
-- OFFSET 0: asked once for each row.
CROSS JOIN LATERAL (SELECT kafka.end_offset(l.topic_id, l.partition) OFFSET 0) AS e (end_offset)
-- A client may commit any number. From one below 0 no record follows, and the difference may be no bigint.
CROSS JOIN LATERAL (SELECT CASE WHEN l.committed_offset >= 0 THEN greatest(e.end_offset - l.committed_offset, 0) END) AS g (lag)
-- Not asked at all where nothing is unread, nor by a query that leaves lag_seconds out.
CROSS JOIN LATERAL (SELECT CASE WHEN g.lag > 0 THEN kafka.unread_since(l.topic_id, l.partition, l.committed_offset) END
                    OFFSET 0) AS u (append_time);
COMMENT ON VIEW kafka.consumer_lag IS
    'How far consumer groups are behind: a row for each partition that a group has committed or that a member reads. Costs an index look-up for each row, and another one for lag_seconds where something is unread.';
COMMENT ON COLUMN kafka.consumer_lag.committed_offset IS 'Next offset that the group will consume; NULL when it has committed none there.';
COMMENT ON COLUMN kafka.consumer_lag.end_offset IS 'Offset of the partition''s next record.';
COMMENT ON COLUMN kafka.consumer_lag.lag IS 'Records between the two; NULL without a committed offset, and for one below 0.';
COMMENT ON COLUMN kafka.consumer_lag.member_id IS 'Who reads the partition now; NULL when nobody does.';
COMMENT ON COLUMN kafka.consumer_lag.lag_seconds IS
    'For how long the first unread record has been in the log; 0 when nothing is left to read, NULL where lag is. Ends of transactions and aborted records count in lag, as in Kafka''s tools, and not here.';

-- Whoever could read the view reads it with its new column.
DO $do$
DECLARE
    reader record;
BEGIN
    FOR reader IN
        SELECT DISTINCT a.grantee FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
        WHERE p.oid = 'kafka.end_offset(bigint, integer)'::pg_catalog.regprocedure AND a.privilege_type = 'EXECUTE'
          AND a.grantee NOT IN (0, p.proowner)
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION kafka.unread_since(bigint, integer, bigint) TO %s',
                                  reader.grantee::pg_catalog.regrole);
    END LOOP;
END
$do$;
