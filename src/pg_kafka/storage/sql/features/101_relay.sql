-- Where records that were produced by SQL are in the log.

CREATE OR REPLACE FUNCTION kafka.produced(id bigint)
RETURNS TABLE (state text, topic text, partition_id integer, partition_offset bigint, message text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked CONSTANT bigint := produced.id;
    of_row CONSTANT bigint := (produced.id >> 16) << 16;
    nth CONSTANT integer := (produced.id & 65535)::integer;
    place record;
    width integer;
    went integer;
    xid xid8;
BEGIN
    IF asked IS NULL OR asked < 0 THEN
        RAISE EXCEPTION 'id must be what kafka.produce() has returned, not %', coalesce(asked::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT kafka.produce(...) returns it.';
    END IF;
    FOR place IN
        SELECT p.topic_id, p.partition_id, p.first_offset, p.records, p.map
        FROM (SELECT j.rows, j.topics, j.row_partitions, j.offsets, j.counts, j.maps FROM kafka.relay_journal_0 j
              WHERE j.last_row >= of_row AND j.first_row <= of_row
              UNION ALL
              SELECT j.rows, j.topics, j.row_partitions, j.offsets, j.counts, j.maps FROM kafka.relay_journal_1 j
              WHERE j.last_row >= of_row AND j.first_row <= of_row) AS c
        CROSS JOIN LATERAL ROWS FROM (unnest(c.rows), unnest(c.topics), unnest(c.row_partitions), unnest(c.offsets),
            unnest(c.counts), unnest(c.maps)) AS p (row_id, topic_id, partition_id, first_offset, records, map)
        WHERE p.row_id = of_row
    LOOP
        partition_offset := NULL;
        IF place.map IS NULL THEN
            IF nth < place.records THEN
                partition_offset := place.first_offset + nth;
            END IF;
        ELSE
            width := get_byte(place.map, 0);
            IF nth < (octet_length(place.map) - 1) / width THEN
                went := get_byte(place.map, 1 + nth * width);
                IF width = 4 THEN
                    went := (('x' || encode(substring(place.map FROM 2 + nth * width FOR 4), 'hex'))::bit(32))::integer;
                END IF;
                IF went = place.partition_id THEN
                    -- Records of the row that went there before this one.
                    SELECT place.first_offset + count(*) INTO partition_offset
                    FROM generate_series(0, nth - 1) AS n
                    WHERE substring(place.map FROM 2 + n * width FOR width)
                        = substring(place.map FROM 2 + nth * width FOR width);
                END IF;
            END IF;
        END IF;
        IF partition_offset IS NOT NULL THEN
            SELECT t.name INTO topic FROM kafka.topics t WHERE t.id = place.topic_id;
            state := 'sent';
            partition_id := place.partition_id;
            message := CASE WHEN topic IS NULL THEN 'the topic was deleted' END;
            RETURN NEXT;
            RETURN;
        END IF;
    END LOOP;
    partition_id := NULL;
    partition_offset := NULL;
    SELECT 'failed', e.topic, e.partition, e.sqlstate || ': ' || e.message INTO state, topic, partition_id, message
    FROM kafka.outbox_errors e WHERE e.id = asked;
    IF FOUND THEN
        RETURN NEXT;
        RETURN;
    END IF;
    -- What is not there is not committed, or was rolled back, or is sent so long ago that nobody remembers where.
    state := NULL;
    SELECT 'waiting', o.topic_name, o.partition, o.xid INTO state, topic, partition_id, xid
    FROM (SELECT o.id, o.xid, o.record_count, o.topic_name, o.partition FROM kafka.outbox_0 o WHERE o.id = of_row
          UNION ALL
          SELECT o.id, o.xid, o.record_count, o.topic_name, o.partition FROM kafka.outbox_1 o WHERE o.id = of_row
          UNION ALL
          SELECT o.id, o.xid, o.record_count, o.topic_name, o.partition FROM kafka.outbox_2 o WHERE o.id = of_row
          UNION ALL
          SELECT o.id, o.xid, o.record_count, o.topic_name, o.partition FROM kafka.outbox_3 o WHERE o.id = of_row) AS o
    WHERE nth < o.record_count;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM kafka.relay_journal_0 j
               WHERE pg_visible_in_snapshot(xid, j.snapshot) AND (j.is_last OR j.last_id >= of_row))
       OR EXISTS (SELECT FROM kafka.relay_journal_1 j
                  WHERE pg_visible_in_snapshot(xid, j.snapshot) AND (j.is_last OR j.last_id >= of_row)) THEN
        state := 'sent';
        message := 'sent longer ago than the places of records are kept';
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION kafka.produced(bigint) IS
    'What became of a record, by the id that kafka.produce() has returned: waiting, sent with its place in the log, or failed with the reason. No row when it is not committed, was rolled back, or was sent longer ago than places are kept (ten minutes; less when there were very many).';
