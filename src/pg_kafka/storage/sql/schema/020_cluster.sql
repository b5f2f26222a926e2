-- Who serves the log, and the topics that there are.

CREATE TABLE kafka.cluster (
    only_row           boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    cluster_id         text    NOT NULL CHECK (length(cluster_id) = 22),
    schema_version     integer NOT NULL,
    epoch              integer NOT NULL DEFAULT 0,
    system_identifier  text    NOT NULL,
    timeline           text    NOT NULL
);
COMMENT ON TABLE kafka.cluster IS 'One row: the Kafka cluster that this database is.';
COMMENT ON COLUMN kafka.cluster.cluster_id IS 'Kafka cluster id, 16 random bytes in base64 without padding.';
COMMENT ON COLUMN kafka.cluster.epoch IS 'Last leader epoch given to an incarnation.';
COMMENT ON COLUMN kafka.cluster.system_identifier IS 'pg_control_system().system_identifier when a broker last served; a change is a restore or another server.';
COMMENT ON COLUMN kafka.cluster.timeline IS 'Timeline (8 hex digits) when a broker last served; a change is a promotion or recovery.';

CREATE SEQUENCE kafka.lock_ids AS integer CYCLE;
COMMENT ON SEQUENCE kafka.lock_ids IS 'Second integer of the advisory locks (class 1885825894) of incarnations and sessions.';

CREATE TABLE kafka.brokers (
    incarnation        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id            integer NOT NULL CHECK (node_id > 0),
    status             text    NOT NULL CHECK (status IN ('live', 'fenced', 'stopped', 'waiting')),
    epoch              integer NOT NULL,
    lock_id            integer NOT NULL,
    heartbeat_lock_id  integer NOT NULL,
    host               text    NOT NULL,
    port               integer NOT NULL,
    version            text    NOT NULL,
    started_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at           timestamptz,
    beats              bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX brokers_live_node ON kafka.brokers (node_id) WHERE status IN ('live', 'waiting');
COMMENT ON TABLE kafka.brokers IS 'Incarnations of brokers, one row for each start; a row that is not live is never revived. Brokers that wait for the one that leads have rows while they do.';
COMMENT ON COLUMN kafka.brokers.seen_at IS 'Time of the last heartbeat by the server''s clock, for people; nothing is decided by it.';
COMMENT ON COLUMN kafka.brokers.beats IS 'Number of heartbeats. A broker that waits and has seen no change for pg_kafka.eviction_ms may take over.';

CREATE TABLE kafka.topics (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text    NOT NULL UNIQUE,
    partitions  integer NOT NULL CHECK (partitions > 0),
    uuid        uuid    NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    configs     jsonb   NOT NULL DEFAULT '{}',
    series      bigint  NOT NULL DEFAULT 0,
    view_name   text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (series = 0 OR series = id)
);
COMMENT ON TABLE kafka.topics IS 'Topics. A deleted topic leaves this table at once; its id is never used again.';
COMMENT ON COLUMN kafka.topics.configs IS 'Topic configs that were set, by Kafka''s names; others have the broker''s values.';
COMMENT ON COLUMN kafka.topics.series IS 'Where its records go now: 0, the shared series, or its own, whose id is the topic''s.';
COMMENT ON COLUMN kafka.topics.view_name IS 'Its view in schema "topics"; NULL until made, and for internal topics.';

CREATE TABLE kafka.deleted_topics (
    id          bigint PRIMARY KEY,
    name        text   NOT NULL,
    series      bigint NOT NULL,
    view_name   text,
    deleted_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE kafka.deleted_topics IS 'Topics whose rows are still to be freed by the janitor.';

CREATE TABLE kafka.settings (
    name   text PRIMARY KEY,
    value  text NOT NULL
);
COMMENT ON TABLE kafka.settings IS 'Broker settings kept in the database, written by kafka.set_config(); flags, environment and file override them.';
