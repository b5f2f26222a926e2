-- How far consumer groups were behind, minute by minute.

CREATE OR REPLACE VIEW kafka.lag_history AS
SELECT m.minute, u.group_id, u.topic, u.lag, u.lag_seconds
FROM kafka.lag_minutes m
CROSS JOIN LATERAL unnest(m.group_ids, m.topics, m.lags, m.lag_seconds) AS u (group_id, topic, lag, lag_seconds);
COMMENT ON VIEW kafka.lag_history IS
    'How far consumer groups were behind in each of the last 30 days'' minutes: a row for each group and each of its topics. Bound the minute; no record of the log is read.';
COMMENT ON COLUMN kafka.lag_history.minute IS 'Begin of the minute by the broker''s clock. Where that was set back a minute may be there twice.';
COMMENT ON COLUMN kafka.lag_history.group_id IS 'NULL: all groups beyond pg_kafka.lag_history_groups together.';
COMMENT ON COLUMN kafka.lag_history.lag IS 'The most records that were unread at one time in that minute, in all partitions of the topic together.';
COMMENT ON COLUMN kafka.lag_history.lag_seconds IS 'For how long the oldest of them had been in the log, at most; see kafka.consumer_lag.';
