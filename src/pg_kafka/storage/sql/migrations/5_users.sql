-- Version 5: users who log in by SASL.
-- Locks: none that anybody waits for.

CREATE TABLE kafka.user_keys (
    name        text    NOT NULL CHECK (name <> '' AND length(name) <= 255),
    mechanism   text    NOT NULL CHECK (mechanism IN ('SCRAM-SHA-256', 'SCRAM-SHA-512')),
    iterations  integer NOT NULL CHECK (iterations BETWEEN 4096 AND 16384),
    salt        bytea   NOT NULL CHECK (octet_length(salt) <= 1024),
    stored_key  bytea   NOT NULL CHECK (octet_length(stored_key) = CASE mechanism WHEN 'SCRAM-SHA-256' THEN 32 ELSE 64 END),
    server_key  bytea   NOT NULL CHECK (octet_length(server_key) = octet_length(stored_key)),
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, mechanism)
);
COMMENT ON TABLE kafka.user_keys IS
    'What is stored of the passwords of Kafka''s users. Whoever reads it can try passwords, and pass for the broker: for the owner alone. kafka.users shows it without secrets.';
COMMENT ON COLUMN kafka.user_keys.stored_key IS 'Hash of the client key. PLAIN is checked by it as well.';
COMMENT ON COLUMN kafka.user_keys.server_key IS 'By it the broker proves to a client that it knows the user.';

CREATE TABLE kafka.user_secret (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    secret    bytea NOT NULL DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
);
INSERT INTO kafka.user_secret DEFAULT VALUES;
COMMENT ON TABLE kafka.user_secret IS
    'One row: from it brokers make salts for names that nobody has, so that such a login looks like one with a wrong password. For the owner alone.';

CREATE TRIGGER note_new AFTER INSERT OR DELETE ON kafka.user_keys
FOR EACH ROW EXECUTE FUNCTION kafka.note_named('user', 'name');
CREATE TRIGGER note_changed AFTER UPDATE ON kafka.user_keys
FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION kafka.note_named('user', 'name');

COMMENT ON COLUMN kafka.catalogue_changes.kind IS 'topic, setting, group config, sql group: a consumer group that SQL drives, notification: a topic that notifies, client metrics, user, acl, quota, or log start: where partitions of a topic begin.';
