-- Settings for one broker, the description of all configs, and what is in force on each broker.
-- Locks: ACCESS EXCLUSIVE on kafka.settings, for a moment; the table is small.

ALTER TABLE kafka.settings
    ADD COLUMN node_id integer NOT NULL DEFAULT 0 CHECK (node_id >= 0),
    DROP CONSTRAINT settings_pkey,
    ADD CONSTRAINT settings_pkey PRIMARY KEY (name, node_id);
COMMENT ON TABLE kafka.settings IS
    'Broker settings kept in the database, written by kafka.set_config() and by clients. Those that can be changed while a broker runs win over flags, environment and file; for others it is the other way round.';
COMMENT ON COLUMN kafka.settings.node_id IS 'The broker that it is for; 0 for all.';

DROP FUNCTION kafka.set_config(text, text);

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
