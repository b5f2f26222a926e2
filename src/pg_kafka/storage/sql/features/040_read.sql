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
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
BEGIN
    place := kafka.locate(topic, partition, "from", "to");
    -- Asks the topic's view in the caller's name: who may SELECT from the view may read this way too.
    RETURN QUERY EXECUTE format(
        'SELECT * FROM %s m
         WHERE m.topic_id = $1 AND m.partition_id = $2 AND m.series = ANY ($3) AND m.segment = ANY ($4)
           AND m.batch_base_offset >= $5 AND m.batch_base_offset < $7
           AND m.partition_offset >= $6 AND m.partition_offset < $7
         ORDER BY m.partition_offset', place.relation)
    USING place.topic_id, partition, place.all_series, place.segments, place.first_base, "from", "to";
END
$$;
COMMENT ON FUNCTION kafka.read(text, integer, bigint, bigint) IS
    'Records of a partition with offsets from "from" up to and without "to", in order. Needs SELECT on the topic''s view. An error when there is no such topic or partition, or for NULL.';
