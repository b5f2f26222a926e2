-- Version 5: how far consumer groups were behind, minute by minute.
-- Locks: none that anybody waits for.

CREATE TABLE kafka.lag_minutes (
    turn         smallint    NOT NULL,
    minute       timestamptz NOT NULL,
    group_ids    text[]      NOT NULL,
    topics       text[]      NOT NULL,
    lags         bigint[]    NOT NULL,
    lag_seconds  integer[]   NOT NULL,
    CONSTRAINT lag_minutes_check CHECK (
        cardinality(topics) = cardinality(group_ids) AND cardinality(lags) = cardinality(group_ids)
        AND cardinality(lag_seconds) = cardinality(group_ids))
) PARTITION BY LIST (turn);
CREATE INDEX lag_minutes_minute ON kafka.lag_minutes (minute);
CREATE TABLE kafka.lag_minutes_0 PARTITION OF kafka.lag_minutes FOR VALUES IN (0);
CREATE TABLE kafka.lag_minutes_1 PARTITION OF kafka.lag_minutes FOR VALUES IN (1);
CREATE TABLE kafka.lag_minutes_2 PARTITION OF kafka.lag_minutes FOR VALUES IN (2);
CREATE TABLE kafka.lag_minutes_3 PARTITION OF kafka.lag_minutes FOR VALUES IN (3);
COMMENT ON TABLE kafka.lag_minutes IS 'Lag of consumer groups, one row for each minute. Read it through kafka.lag_history.';
COMMENT ON COLUMN kafka.lag_minutes.turn IS 'Which of the four tables.';
COMMENT ON COLUMN kafka.lag_minutes.group_ids IS 'One element for each group and each of its topics, those furthest behind; a last one that is NULL stands for the rest.';
COMMENT ON COLUMN kafka.lag_minutes.lag_seconds IS 'Whole seconds.';

CREATE TABLE kafka.lag_turn (
    only_row    boolean  PRIMARY KEY DEFAULT true CHECK (only_row),
    turn        smallint NOT NULL DEFAULT 0 CHECK (turn BETWEEN 0 AND 3),
    since       timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE kafka.lag_turn IS 'One row: which of the tables of kafka.lag_minutes is written, and since when.';
INSERT INTO kafka.lag_turn DEFAULT VALUES;
