-- Two schemas: ours, and the one that users read topics from.

CREATE SCHEMA kafka;
COMMENT ON SCHEMA kafka IS 'pg_kafka: the log of a Kafka cluster and its state. Contract for SQL: messages, topics, consumer_offsets, read().';

CREATE SCHEMA IF NOT EXISTS topics;
COMMENT ON SCHEMA topics IS 'pg_kafka: one view for each topic, made moments after the topic.';
