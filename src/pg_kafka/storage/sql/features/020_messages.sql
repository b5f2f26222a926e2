-- kafka.messages: every committed record of every topic as a row. Its names and columns are a contract with SQL users.
-- kafka.all_messages has in addition what transactions leave in the log. kafka.topic_messages is what the views of topics are
-- made of: kafka.messages without the question whether all topics are unpacked.
--
-- Only built-in functions in here, and those that everybody may execute: PostgreSQL asks for EXECUTE on a view's functions from
-- whoever reads the view, and a GRANT on a topic's view is meant to be enough.

--
-- Columns are only ever appended: topics' views, kafka.read() and views of users stand on these. What comes later goes behind the
-- last column of both views, right behind %1$s.

DO $do$
DECLARE
    -- What the views are made of. A view on the other one would take half as long again to plan.
    body constant text := $body$
SELECT l.topic                                        AS topic_id,
       l.partition                                    AS partition_id,
       l.base_offset + coalesce(r.offset_delta, r.n)  AS partition_offset,
       l.global_base + coalesce(r.offset_delta, r.n)  AS global_offset,
       r.key,
       r.value,
       -- A bigint of milliseconds reaches further than timestamptz does, and Kafka's -1 means that there is none. The bound is 2^53 - 1
       -- (year 287396); PostgreSQL multiplies intervals as doubles, which is exact to the microsecond until the year 2255.
       CASE WHEN coalesce(r.timestamp, l.first_timestamp) BETWEEN 0 AND 9007199254740991
            THEN timestamptz 'epoch' + coalesce(r.timestamp, l.first_timestamp) * interval '1 millisecond'
       END                                            AS timestamp,
       coalesce(r.timestamp, l.first_timestamp)       AS timestamp_ms,
       CASE WHEN r.header_ends[r.n + 1] > coalesce(r.header_ends[r.n], 0) THEN (
           -- encode() never fails and leaves plain ASCII as it is; any backslash in its answer asks for a closer look.
           -- What is UTF-8 becomes text, what is not (or has a NUL) stays escaped.
           SELECT array_agg(ROW (
                      CASE WHEN strpos(encode(h.key, 'escape'), '\') = 0 THEN encode(h.key, 'escape')
                           WHEN position('\x00'::bytea IN h.key) > 0 THEN encode(h.key, 'escape')
                           WHEN convert_from(h.key, 'LATIN1') ~ ('^([\u0001-\u007f]|[\u00c2-\u00df][\u0080-\u00bf]'
                               '|\u00e0[\u00a0-\u00bf][\u0080-\u00bf]|[\u00e1-\u00ec\u00ee\u00ef][\u0080-\u00bf]{2}'
                               '|\u00ed[\u0080-\u009f][\u0080-\u00bf]|\u00f0[\u0090-\u00bf][\u0080-\u00bf]{2}'
                               '|[\u00f1-\u00f3][\u0080-\u00bf]{3}|\u00f4[\u0080-\u008f][\u0080-\u00bf]{2})*$')
                           THEN convert_from(h.key, 'UTF8')
                           ELSE encode(h.key, 'escape')
                      END, h.value)::kafka.header)
           FROM unnest(r.header_keys[coalesce(r.header_ends[r.n], 0) + 1:r.header_ends[r.n + 1]],
                       r.header_values[coalesce(r.header_ends[r.n], 0) + 1:r.header_ends[r.n + 1]]) AS h (key, value)
       ) END                                          AS headers,
       l.base_offset                                  AS batch_base_offset,
       l.last_offset                                  AS batch_last_offset,
       l.max_timestamp                                AS batch_max_timestamp,
       l.series,
       l.segment%1$s
FROM kafka.log l
JOIN kafka.topics t ON t.id = l.topic
LEFT JOIN kafka.log_starts s ON s.topic = l.topic AND s.partition = l.partition
-- Set-returning functions in a select list hand out elements one by one; in FROM each row's arrays would be written to a
-- tuplestore first, which takes twice as long.
CROSS JOIN LATERAL (
    -- A row whose batches are not unpacked has no arrays. Its records are never left out without a word.
    SELECT unnest(coalesce(l.values, kafka.refuse_packed(l.topic))) AS value,
           unnest(l.keys)                            AS key,
           unnest(l.timestamps)                      AS timestamp,
           unnest(l.offset_deltas)                   AS offset_delta,
           generate_series(0, l.record_count - 1)    AS n,
           d.header_ends, d.header_keys, d.header_values%2$s
    -- Taken out of TOAST once for each row of the log, not for each record; and not at all when nobody asks for headers.
    FROM (SELECT l.header_ends || '{}'::integer[]    AS header_ends,
                 l.header_keys || '{}'::bytea[]      AS header_keys,
                 l.header_values || '{}'::bytea[]    AS header_values%3$s
          OFFSET 0) AS d
) AS r
WHERE %4$sl.last_offset >= coalesce(s.log_start_offset, 0)
  -- Rows that have moved are in two segments for a while, and the query's snapshot says which one counts. Nearly always there is no
  -- such segment. NOT IN stays a filter of the scan, which asks once; as a join it would be planned with every segment.
  AND (l.series, l.segment) NOT IN (SELECT h.series, h.segment FROM kafka.segments h WHERE h.state IN ('filling', 'replaced'))
  AND l.base_offset + coalesce(r.offset_delta, r.n) >= coalesce(s.log_start_offset, 0)
    $body$;
    committed constant text := $where$
          NOT l.is_control
      -- Asked of the stored row, before it is unpacked, and not at all when it is in no transaction.
      AND (NOT l.is_transactional OR (
          SELECT m.is_commit FROM kafka.markers m
          WHERE m.topic = l.topic AND m.partition = l.partition
            AND m.producer_id = coalesce(l.producer_id, l.producer_ids[1]) AND m.marker_offset > l.last_offset
          ORDER BY m.marker_offset LIMIT 1))
      AND $where$;
BEGIN
    EXECUTE 'CREATE OR REPLACE VIEW kafka.topic_messages AS ' || format(body, '', '', '', committed);
    EXECUTE 'CREATE OR REPLACE VIEW kafka.messages AS ' || format(body, '', '', '', 'kafka.are_unpacked() AND ' || committed);
    EXECUTE 'CREATE OR REPLACE VIEW kafka.all_messages AS ' || format(body, $columns$,
           r.transaction,
           l.is_transactional,
           l.is_control,
           coalesce(l.producer_id, CASE WHEN l.is_transactional THEN l.producer_ids[1] END)        AS producer_id,
           coalesce(l.producer_epoch, CASE WHEN l.is_transactional THEN l.producer_epochs[1] END)  AS producer_epoch
    $columns$, ', d.transaction', $transaction$,
                     CASE WHEN l.is_transactional THEN coalesce((
                         SELECT CASE WHEN m.is_commit THEN 'committed' ELSE 'aborted' END FROM kafka.markers m
                         WHERE m.topic = l.topic AND m.partition = l.partition
                           AND m.producer_id = coalesce(l.producer_id, l.producer_ids[1]) AND m.marker_offset >= l.base_offset
                         ORDER BY m.marker_offset LIMIT 1), 'open') END AS transaction
    $transaction$, 'kafka.are_unpacked() AND ');
END
$do$;

COMMENT ON VIEW kafka.messages IS
    'Every committed record of every topic. Name the topic (a topic''s own view is quicker to plan) and, to read few of many records, bound '
    'batch_base_offset or use kafka.read().';
COMMENT ON COLUMN kafka.messages.topic_id IS 'kafka.topics.id.';
COMMENT ON COLUMN kafka.messages.partition_id IS 'Partition of the topic, from 0.';
COMMENT ON COLUMN kafka.messages.partition_offset IS 'Kafka''s offset: position within the partition.';
COMMENT ON COLUMN kafka.messages.global_offset IS 'Grows within each partition, unique in the database, with gaps.';
COMMENT ON COLUMN kafka.messages.key IS 'Key; NULL when the record has none.';
COMMENT ON COLUMN kafka.messages.value IS 'Value; NULL is a tombstone.';
COMMENT ON COLUMN kafka.messages.timestamp IS 'timestamp_ms as a time; NULL when negative or beyond what PostgreSQL can show.';
COMMENT ON COLUMN kafka.messages.timestamp_ms IS 'Record timestamp, ms since the epoch: the producer''s or, by message.timestamp.type, the broker''s.';
COMMENT ON COLUMN kafka.messages.headers IS 'Headers in their order; NULL when the record has none.';
COMMENT ON COLUMN kafka.messages.batch_base_offset IS 'First offset of the stored row; an index serves conditions on it.';
COMMENT ON COLUMN kafka.messages.batch_last_offset IS 'Last offset of the stored row.';
COMMENT ON COLUMN kafka.messages.batch_max_timestamp IS 'Largest timestamp_ms of the stored row; a condition on it skips rows without unpacking them.';
COMMENT ON COLUMN kafka.messages.series IS 'Chain of segments that holds the record.';
COMMENT ON COLUMN kafka.messages.segment IS 'Segment within the series.';

COMMENT ON VIEW kafka.topic_messages IS
    'What the views of topics are made of. Read these, or kafka.messages: this one stops at batches that are not unpacked.';

COMMENT ON VIEW kafka.all_messages IS
    'kafka.messages with all that transactions leave in the log: records that are not committed, or never will be, and markers.';
COMMENT ON COLUMN kafka.all_messages.transaction IS
    'What became of the record''s transaction: committed, aborted or (still) open; NULL when it is in none.';
COMMENT ON COLUMN kafka.all_messages.is_transactional IS 'The record is in a transaction, or ends one.';
COMMENT ON COLUMN kafka.all_messages.is_control IS 'A marker: no record of a producer but the end of its transaction.';
COMMENT ON COLUMN kafka.all_messages.producer_id IS 'Idempotent producer; NULL when there is none, or when the stored row has records of several.';
COMMENT ON COLUMN kafka.all_messages.producer_epoch IS 'Its epoch, or that of the marker.';
