-- Version 5: topics have columns of their own.
-- Locks: none that anybody waits for.

CREATE TABLE kafka.topic_columns (
    topic     text     NOT NULL,
    name      text     NOT NULL,
    position  integer  NOT NULL,
    type      text     NOT NULL CHECK (type IN ('text', 'bigint', 'integer', 'numeric', 'double precision', 'boolean', 'timestamptz', 'date',
                                               'uuid', 'jsonb')),
    path      text     NOT NULL,
    PRIMARY KEY (topic, name)
);
COMMENT ON TABLE kafka.topic_columns IS 'Columns of topics'' views that are taken from JSON values. Written by kafka.define_columns().';
COMMENT ON COLUMN kafka.topic_columns.topic IS 'Name of the topic. A topic that is deleted and created again has the same columns.';
COMMENT ON COLUMN kafka.topic_columns.position IS 'Order in which they were defined.';
COMMENT ON COLUMN kafka.topic_columns.path IS 'Where the value is: $ for the whole document, .name for a member, [0] for an element of an array.';
