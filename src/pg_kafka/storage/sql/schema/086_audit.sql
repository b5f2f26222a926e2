-- Who logged in or failed, and who changed what. Brokers write what clients do; triggers (features/086_audit.sql) what SQL does.
--
-- Old rows are deleted from the front, in small pieces, by the broker: as many as have come behind. Two tables that take turns, as
-- journals do, would spare vacuum that, and cost the reader a view and the writer a lock for nothing: rows are few, since what comes
-- often is counted instead (broker/audit.py).

CREATE TABLE kafka.audit_log (
    entry        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    happened_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    event        text    NOT NULL,
    via          text    NOT NULL CHECK (via IN ('kafka', 'sql')),
    principal    text    NOT NULL,
    address      text,
    listener     text,
    application  text    NOT NULL DEFAULT '',
    resource     text    NOT NULL DEFAULT '',
    detail       text    NOT NULL DEFAULT '',
    succeeded    boolean NOT NULL DEFAULT true,
    times        bigint  NOT NULL DEFAULT 1 CHECK (times > 0)
);
COMMENT ON TABLE kafka.audit_log IS
    'Who logged in or failed, and who changed what, by Kafka''s protocol or by SQL. The latest pg_kafka.audit_rows rows are kept, for pg_kafka.audit_retention_ms.';
COMMENT ON COLUMN kafka.audit_log.event IS 'What happened: "login", "topic created". docs/security.md has all of them.';
COMMENT ON COLUMN kafka.audit_log.via IS 'kafka: a client of the broker. sql: a session of the database.';
COMMENT ON COLUMN kafka.audit_log.principal IS 'Who: Kafka''s name of the client, as in User:alice; in SQL the role that the session belongs to.';
COMMENT ON COLUMN kafka.audit_log.address IS 'The client''s address; NULL for a Unix socket, and where many addresses are counted together.';
COMMENT ON COLUMN kafka.audit_log.listener IS 'The listener that the client came by; NULL in SQL.';
COMMENT ON COLUMN kafka.audit_log.application IS 'What the client calls itself: its library in Kafka, application_name in SQL.';
COMMENT ON COLUMN kafka.audit_log.resource IS 'What it was about: a type and a name, as in "topic orders".';
COMMENT ON COLUMN kafka.audit_log.times IS 'More than 1: so many of the same were counted instead of written one by one.';
