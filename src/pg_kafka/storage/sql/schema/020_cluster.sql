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
    beats              bigint  NOT NULL DEFAULT 0,
    endpoints          text[]  NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX brokers_live_node ON kafka.brokers (node_id) WHERE status IN ('live', 'waiting');
COMMENT ON TABLE kafka.brokers IS 'Incarnations of brokers, one row for each start; a row that is not live is never revived. Brokers that wait for the one that leads have rows while they do.';
COMMENT ON COLUMN kafka.brokers.seen_at IS 'Time of the last heartbeat by the server''s clock, for people; nothing is decided by it.';
COMMENT ON COLUMN kafka.brokers.beats IS 'Number of heartbeats. A broker that waits and has seen no change for pg_kafka.eviction_ms may take over.';
COMMENT ON COLUMN kafka.brokers.endpoints IS 'Where clients of each listener reach the broker, as in SECURE://host:port. Empty: a broker of an older version, with one listener.';

CREATE TABLE kafka.topics (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text    NOT NULL UNIQUE,
    partitions  integer NOT NULL CHECK (partitions > 0),
    uuid        uuid    NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    configs     jsonb   NOT NULL DEFAULT '{}',
    series      bigint  NOT NULL DEFAULT 0,
    view_name   text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    keeps_batches  boolean NOT NULL DEFAULT false,
    sql_asked_at   timestamptz,
    CHECK (series = 0 OR series = id)
);
CREATE INDEX topics_with_batches ON kafka.topics (id) WHERE keeps_batches;
COMMENT ON TABLE kafka.topics IS 'Topics. A deleted topic leaves this table at once; its id is never used again.';
COMMENT ON COLUMN kafka.topics.configs IS 'Topic configs that were set, by Kafka''s names; others have the broker''s values.';
COMMENT ON COLUMN kafka.topics.series IS 'Where its records go now: 0, the shared series, or its own, whose id is the topic''s.';
COMMENT ON COLUMN kafka.topics.keeps_batches IS 'Rows may have compressed batches as they came: a query of the topic waits until the broker has unpacked them.';
COMMENT ON COLUMN kafka.topics.sql_asked_at IS 'Since when its batches are unpacked, and none are kept, because SQL has asked for its records.';
COMMENT ON COLUMN kafka.topics.view_name IS 'Its view in schema "topics"; NULL until made, and for internal topics.';

CREATE TABLE kafka.deleted_topics (
    id          bigint PRIMARY KEY,
    name        text   NOT NULL,
    series      bigint NOT NULL,
    view_name   text,
    deleted_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE kafka.deleted_topics IS 'Topics whose rows are still to be freed by the janitor. A trigger of kafka.topics fills it.';

-- SECURITY DEFINER: who may delete topics need not have a right on kafka.deleted_topics.
CREATE FUNCTION kafka.keep_deleted_topics() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO kafka.deleted_topics (id, name, series, view_name)
    SELECT g.id, g.name, g.series, g.view_name FROM gone g ORDER BY g.id
    ON CONFLICT (id) DO NOTHING;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.keep_deleted_topics() IS 'Trigger of kafka.topics: whoever deletes topics, the janitor frees what they hold.';
CREATE TRIGGER keep_deleted AFTER DELETE ON kafka.topics
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION kafka.keep_deleted_topics();

CREATE TABLE kafka.settings (
    name     text    NOT NULL,
    value    text    NOT NULL,
    node_id  integer NOT NULL DEFAULT 0 CHECK (node_id >= 0),
    PRIMARY KEY (name, node_id)
);
COMMENT ON TABLE kafka.settings IS
    'Broker settings kept in the database, written by kafka.set_config() and by clients. Those that can be changed while a broker runs win over flags, environment and file; for others it is the other way round.';
COMMENT ON COLUMN kafka.settings.node_id IS 'The broker that it is for; 0 for all.';

CREATE TABLE kafka.config_keys (
    scope          text     NOT NULL CHECK (scope IN ('topic', 'broker', 'group', 'client metrics')),
    name           text     NOT NULL,
    type           text     NOT NULL CHECK (type IN ('boolean', 'string', 'short', 'int', 'long', 'double', 'list', 'password')),
    default_value  text,
    minimum        numeric,
    maximum        numeric,
    also_allowed   numeric,
    choices        text[]   NOT NULL,
    pattern        text     NOT NULL,
    form           text     NOT NULL,
    must_be_set    boolean  NOT NULL,
    synonyms       text[]   NOT NULL,
    bounds         text[]   NOT NULL,
    unit_ms        bigint   NOT NULL,
    effect         text     NOT NULL CHECK (effect IN ('works', 'no effect', 'refused')),
    refused        text     NOT NULL,
    is_dynamic     boolean  NOT NULL,
    documentation  text     NOT NULL,
    PRIMARY KEY (scope, name)
);
COMMENT ON TABLE kafka.config_keys IS 'Every config that a topic, a broker, a group or a subscription to metrics of clients can have, written by the program when it starts.';
COMMENT ON COLUMN kafka.config_keys.also_allowed IS 'One value outside of minimum and maximum.';
COMMENT ON COLUMN kafka.config_keys.pattern IS 'What a value matches; form says it in words.';
COMMENT ON COLUMN kafka.config_keys.synonyms IS 'Configs of the broker that hold where this one is not set, the strongest first.';
COMMENT ON COLUMN kafka.config_keys.bounds IS 'Configs of the broker for the least and the greatest value.';
COMMENT ON COLUMN kafka.config_keys.unit_ms IS 'Milliseconds in one of it, where a synonym has another unit.';
COMMENT ON COLUMN kafka.config_keys.effect IS 'no effect: it only matters to replication or to files, which are PostgreSQL''s. refused: only the default is taken.';
COMMENT ON COLUMN kafka.config_keys.is_dynamic IS 'A broker follows a change while it runs; otherwise when it starts.';

CREATE TABLE kafka.broker_configs (
    node_id  integer NOT NULL,
    name     text    NOT NULL,
    value    text,
    source   text    NOT NULL,
    PRIMARY KEY (node_id, name)
);
COMMENT ON TABLE kafka.broker_configs IS 'The settings in force on each broker, written by the broker when it starts and when they change.';
COMMENT ON COLUMN kafka.broker_configs.source IS 'Where the value comes from: database (for all brokers or for this one), flag, environment, file, parameter of PostgreSQL, default.';
