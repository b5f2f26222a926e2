-- What SQL users see of transactions. Values of records are described where they are made: coordinator/transactions.py.

CREATE OR REPLACE VIEW kafka.transaction_records AS
SELECT j.entry, j.transactional_id, j.kind, j.key, j.value, j.written_at
FROM (SELECT DISTINCT ON (t.transactional_id, t.kind, t.key) t.*
      FROM (SELECT * FROM kafka.transaction_journal_0 UNION ALL SELECT * FROM kafka.transaction_journal_1) AS t
      ORDER BY t.transactional_id, t.kind, t.key, t.entry DESC) AS j
WHERE j.value IS NOT NULL;
COMMENT ON VIEW kafka.transaction_records IS
    'The latest records of transactional ids as the broker keeps them; their values may change with any version.';

CREATE OR REPLACE FUNCTION kafka.first_open_offset(topic_id bigint, partition integer, producer_id bigint, from_offset bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lowest bigint;
    place record;
    found_at bigint;
BEGIN
    -- What is below the producer's last marker is decided.
    SELECT greatest(from_offset, coalesce(max(m.marker_offset) + 1, 0)) INTO lowest FROM kafka.markers m
    WHERE m.topic = topic_id AND m.partition = first_open_offset.partition AND m.producer_id = first_open_offset.producer_id;
    FOR place IN
        SELECT format('kafka.log_%s_%s', e.series, e.segment) AS leaf FROM kafka.extents e
        WHERE e.topic = topic_id AND e.partition = first_open_offset.partition
          AND e.first_offset >= coalesce((
              SELECT max(x.first_offset) FROM kafka.extents x
              WHERE x.topic = topic_id AND x.partition = first_open_offset.partition AND x.first_offset <= lowest), 0)
        ORDER BY e.first_offset
    LOOP
        IF to_regclass(place.leaf) IS NOT NULL THEN
            EXECUTE format('SELECT l.base_offset FROM %s l
                            WHERE l.topic = $1 AND l.partition = $2 AND l.base_offset >= $4
                              AND l.is_transactional AND NOT l.is_control AND coalesce(l.producer_id, l.producer_ids[1]) = $3
                            ORDER BY l.base_offset LIMIT 1', place.leaf)
            INTO found_at USING topic_id, partition, producer_id, lowest;
            IF found_at IS NOT NULL THEN
                RETURN found_at;
            END IF;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.first_open_offset(bigint, integer, bigint, bigint) IS
    'Where a producer''s open transaction begins in a partition, at from_offset or above: the last stable offset cannot pass it. NULL when it has no records there.';

CREATE OR REPLACE VIEW kafka.transactions AS
SELECT t.transactional_id, t.state, t.producer_id, t.producer_epoch, t.timeout, t.started_at,
       CASE WHEN t.is_open THEN greatest(clock_timestamp() - t.started_at, interval '0') END AS age,
       p.partitions, t.groups,
       CASE WHEN t.is_open THEN (
           SELECT coalesce(jsonb_agg(jsonb_build_object('topic', o.topic, 'partition', o.partition, 'first_offset', o.first_offset)
                                     ORDER BY o.topic, o.partition), '[]')
           FROM (SELECT e.name AS topic, (x.value ->> 1)::integer AS partition,
                        kafka.first_open_offset(e.id, (x.value ->> 1)::integer, t.producer_id, (x.value ->> 2)::bigint) AS first_offset
                 FROM jsonb_array_elements(t.registered) AS x (value)
                 JOIN kafka.topics e ON e.id = (x.value ->> 0)::bigint) AS o
           WHERE o.first_offset IS NOT NULL
       ) END AS holds_back,
       t.written_at
FROM (SELECT r.transactional_id, r.value ->> 'state' AS state,
             (r.value ->> 'producer_id')::bigint AS producer_id, (r.value ->> 'producer_epoch')::smallint AS producer_epoch,
             (r.value ->> 'timeout_ms')::integer * interval '1 millisecond' AS timeout,
             CASE WHEN r.value ->> 'state' IN ('Ongoing', 'PrepareCommit', 'PrepareAbort')
                  THEN timestamptz 'epoch' + (r.value ->> 'started_ms')::bigint * interval '1 millisecond' END AS started_at,
             r.value ->> 'state' IN ('Ongoing', 'PrepareCommit', 'PrepareAbort') AS is_open,
             r.value -> 'partitions' AS registered,
             ARRAY(SELECT regexp_replace(g.id, '␛(.)', '\1', 'g')
                   FROM jsonb_array_elements_text(r.value -> 'groups') WITH ORDINALITY AS g (id, n) ORDER BY g.n) AS groups,
             r.written_at
      FROM kafka.transaction_records r WHERE r.kind = 'transaction') AS t
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(jsonb_build_object('topic', e.name, 'partition', (x.value ->> 1)::integer)
                              ORDER BY e.name, (x.value ->> 1)::integer), '[]') AS partitions
    FROM jsonb_array_elements(t.registered) AS x (value) JOIN kafka.topics e ON e.id = (x.value ->> 0)::bigint) AS p;
COMMENT ON VIEW kafka.transactions IS 'Transactional ids, and the transaction that each has open.';
COMMENT ON COLUMN kafka.transactions.state IS
    'Kafka''s word: Empty, Ongoing, PrepareCommit or PrepareAbort (decided, not yet in all partitions), CompleteCommit, CompleteAbort.';
COMMENT ON COLUMN kafka.transactions.timeout IS 'How long a transaction may stay open before the broker aborts it.';
COMMENT ON COLUMN kafka.transactions.started_at IS 'When the open transaction began; NULL when there is none.';
COMMENT ON COLUMN kafka.transactions.age IS 'How long it has been open.';
COMMENT ON COLUMN kafka.transactions.partitions IS 'Partitions that belong to the open transaction: [{topic, partition}].';
COMMENT ON COLUMN kafka.transactions.groups IS 'Consumer groups whose offsets it commits.';
COMMENT ON COLUMN kafka.transactions.holds_back IS
    'Partitions in which it has records, so that read_committed consumers cannot pass its first offset there: [{topic, partition, first_offset}]. NULL when none is open.';
COMMENT ON COLUMN kafka.transactions.written_at IS 'When the state last changed.';

CREATE OR REPLACE VIEW kafka.pending_offsets AS
SELECT regexp_replace(r.value ->> 'group', '␛(.)', '\1', 'g') AS group_id, t.id AS topic_id,
       (r.value ->> 'partition')::integer AS partition_id, (r.value ->> 'offset')::bigint AS pending_offset,
       -- As in kafka.consumer_offsets.
       regexp_replace(regexp_replace(m.stored, '^((?:[^␛]|␛.)*)␀$', '\1'), '␛(.)', '\1', 'g') AS metadata,
       CASE WHEN (r.value ->> 'leader_epoch')::integer >= 0 THEN (r.value ->> 'leader_epoch')::integer END AS leader_epoch,
       r.written_at, r.transactional_id,
       decode(replace(replace(replace(replace(m.stored, '\', '\\'), '␛␛', '\342\220\233'), '␛␀', '\342\220\200'), '␀', '\000'),
              'escape') AS metadata_bytes
FROM kafka.transaction_records r JOIN kafka.topics t ON t.id = (r.value ->> 'topic_id')::bigint
CROSS JOIN LATERAL (SELECT r.value ->> 'metadata') AS m (stored)
WHERE r.kind = 'offset';
COMMENT ON VIEW kafka.pending_offsets IS
    'Offsets of consumer groups in open transactions. They go to kafka.consumer_offsets when their transaction commits, and nowhere when it aborts.';
COMMENT ON COLUMN kafka.pending_offsets.metadata_bytes IS 'See kafka.consumer_offsets.';
COMMENT ON COLUMN kafka.pending_offsets.pending_offset IS 'Next offset that the group will consume, if the transaction commits.';

CREATE OR REPLACE FUNCTION kafka.abort_transaction(transactional_id text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stored jsonb;
    request bigint;
BEGIN
    SELECT r.value INTO stored FROM kafka.transaction_records r
    WHERE r.transactional_id = abort_transaction.transactional_id AND r.kind = 'transaction';
    IF stored IS NULL THEN
        RAISE EXCEPTION 'transactional id "%" does not exist', transactional_id
            USING ERRCODE = 'undefined_object', HINT = 'Those that there are are in kafka.transactions.';
    ELSIF stored ->> 'state' IN ('PrepareCommit', 'PrepareAbort') THEN
        RAISE EXCEPTION 'the transaction of "%" is decided and about to end: it is in state %', transactional_id, stored ->> 'state'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF stored ->> 'state' <> 'Ongoing' THEN
        RAISE EXCEPTION 'transactional id "%" has no open transaction: it is in state %', transactional_id, stored ->> 'state'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO kafka.transaction_requests (transactional_id, producer_id, producer_epoch, action, requested_by)
    VALUES (transactional_id, (stored ->> 'producer_id')::bigint, (stored ->> 'producer_epoch')::smallint, 'abort',
            coalesce(nullif(current_setting('role'), 'none'), session_user))
    RETURNING id INTO request;
    DELETE FROM kafka.transaction_requests q WHERE q.id <= request - 1000 AND q.done_at IS NOT NULL;
    PERFORM pg_notify('pg_kafka_transactions', request::text);
    RETURN request;
END
$$;
COMMENT ON FUNCTION kafka.abort_transaction(text) IS
    'Ask the broker to abort the open transaction of a transactional id, whose producer is fenced by that. Returns the request''s id in kafka.transaction_requests, which tells when it was done.';
