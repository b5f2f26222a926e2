-- kafka.read: a range of offsets, found by index whatever the size of the log.

CREATE OR REPLACE FUNCTION kafka.locate(
    topic text, partition integer, "from" bigint, "to" bigint,
    OUT relation text, OUT topic_id bigint, OUT all_series bigint[], OUT segments integer[], OUT first_base bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    first_extent record;
    partitions integer;
BEGIN
    IF topic IS NULL OR partition IS NULL OR "from" IS NULL OR "to" IS NULL THEN
        RAISE EXCEPTION 'topic, partition, "from" and "to" must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- A view that somebody has dropped is made again by the janitor.
    SELECT t.id, t.partitions, CASE WHEN to_regclass('topics.' || quote_ident(t.view_name)) IS NULL THEN 'kafka.messages'
                                    ELSE 'topics.' || quote_ident(t.view_name) END
    INTO topic_id, partitions, relation
    FROM kafka.topics t WHERE t.name = locate.topic;
    IF topic_id IS NULL THEN
        RAISE EXCEPTION 'topic "%" does not exist', topic USING ERRCODE = 'undefined_object';
    END IF;
    IF partition NOT BETWEEN 0 AND partitions - 1 THEN
        RAISE EXCEPTION 'topic "%" has no partition %', topic, partition
            USING ERRCODE = 'undefined_object', DETAIL = format('Its partitions are 0 to %s.', partitions - 1);
    END IF;
    SELECT e.first_offset, e.series, e.segment INTO first_extent
    FROM kafka.extents e
    WHERE e.topic = topic_id AND e.partition = locate.partition AND e.first_offset <= locate."from"
    ORDER BY e.first_offset DESC LIMIT 1;
    SELECT array_agg(DISTINCT e.series), array_agg(DISTINCT e.segment) INTO all_series, segments
    FROM kafka.extents e
    WHERE e.topic = topic_id AND e.partition = locate.partition
      AND e.first_offset >= coalesce(first_extent.first_offset, locate."from") AND e.first_offset < locate."to";
    first_base := "from";
    IF first_extent.segment IS NOT NULL THEN
        -- The row that holds "from" begins at or before it. Dynamic, so that it is planned for this one leaf.
        EXECUTE 'SELECT coalesce(max(l.base_offset), $5) FROM kafka.log l
                 WHERE l.series = $1 AND l.segment = $2 AND l.topic = $3 AND l.partition = $4 AND l.base_offset <= $5'
        INTO first_base
        USING first_extent.series, first_extent.segment, topic_id, partition, "from";
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.locate(text, integer, bigint, bigint) IS
    'Where a range of offsets is: the view to ask, the segments, and the first offset of the stored row that holds "from".';

CREATE OR REPLACE FUNCTION kafka.read(topic text, partition integer, "from" bigint, "to" bigint)
RETURNS SETOF kafka.messages
-- VOLATILE, so that its query sees batches that were unpacked for it.
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
    again record;
    columns text;
    tries integer := 0;
    found bigint;
BEGIN
    place := kafka.locate(topic, partition, "from", "to");
    -- A view from before an upgrade lacks the columns that kafka.messages has got; the janitor makes it anew moments later. And it may have
    -- columns of its own.
    SELECT string_agg(CASE WHEN v.attname IS NULL THEN format('NULL::%s', format_type(a.atttypid, a.atttypmod)) ELSE format('m.%I', v.attname) END,
                      ', ' ORDER BY a.attnum) INTO columns
    FROM pg_attribute a
    LEFT JOIN pg_attribute v ON v.attrelid = to_regclass(place.relation) AND v.attname = a.attname AND v.atttypid = a.atttypid
    WHERE a.attrelid = 'kafka.messages'::regclass AND a.attnum > 0;
    -- Each statement has a snapshot of its own in READ COMMITTED, and records may move between two of them. So the query that reads them
    -- also asks whether they are where they were, and finds nothing when they are not. Numbers of segments are in its plan: one with
    -- conditions on other tables instead would plan every segment.
    LOOP
        -- Asks the topic's view in the caller's name: who may SELECT from the view may read this way too.
        RETURN QUERY EXECUTE format(
            'SELECT %s FROM %s m
             WHERE m.topic_id = $1 AND m.partition_id = $2 AND m.series = ANY ($3) AND m.segment = ANY ($4)
               AND m.batch_base_offset >= $5 AND m.batch_base_offset < $7
               AND m.partition_offset >= $6 AND m.partition_offset < $7
               AND (SELECT (p.all_series, p.segments) IS NOT DISTINCT FROM ($3, $4) FROM kafka.locate($8, $2, $6, $7) p)
             ORDER BY m.partition_offset', columns, place.relation)
        USING place.topic_id, partition, place.all_series, place.segments, place.first_base, "from", "to", topic;
        GET DIAGNOSTICS found = ROW_COUNT;
        EXIT WHEN found > 0;
        again := kafka.locate(topic, partition, "from", "to");
        EXIT WHEN (again.all_series, again.segments) IS NOT DISTINCT FROM (place.all_series, place.segments);
        place := again;
        tries := tries + 1;
        IF tries = 100 THEN
            RAISE EXCEPTION 'records of topic "%" move all the time', topic USING ERRCODE = 'serialization_failure';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.read(text, integer, bigint, bigint) IS
    'Records of a partition with offsets from "from" up to and without "to", in order. Needs SELECT on the topic''s view. An error when there is no such topic or partition, or for NULL.';
