-- Version 5: quotas of clients.
-- Locks: none that anybody waits for.

CREATE TABLE kafka.client_quotas (
    entity  jsonb             NOT NULL,
    name    text              NOT NULL,
    value   double precision  NOT NULL CHECK (value > 0 AND value < 'Infinity'),
    PRIMARY KEY (entity, name),
    CHECK (jsonb_typeof(entity) = 'object' AND entity <> '{}' AND entity - ARRAY['user', 'client-id', 'ip'] = '{}'
           AND (NOT entity ? 'ip' OR NOT entity ?| ARRAY['user', 'client-id'])
           AND jsonb_typeof(coalesce(entity -> 'user', '""')) = 'string'
           AND jsonb_typeof(coalesce(entity -> 'client-id', '""')) = 'string'
           AND jsonb_typeof(coalesce(entity -> 'ip', '""')) = 'string'),
    CHECK (name = ANY (CASE WHEN entity ? 'ip' THEN ARRAY['connection_creation_rate'] ELSE
                       ARRAY['producer_byte_rate', 'consumer_byte_rate', 'request_percentage', 'controller_mutation_rate'] END))
);
COMMENT ON TABLE kafka.client_quotas IS
    'How much clients may take. kafka.quotas shows them and kafka.set_client_quota() changes them; running brokers follow within a second.';
COMMENT ON COLUMN kafka.client_quotas.entity IS
    'Whom it is for: "user", "client-id", both, or "ip", each with a name; an empty name is the default, for all without a quota of their own.';
COMMENT ON COLUMN kafka.client_quotas.name IS
    'producer_byte_rate and consumer_byte_rate: bytes a second. request_percentage: of one processor. controller_mutation_rate: partitions created or deleted a second. connection_creation_rate, of an ip: connections a second.';

CREATE TRIGGER note_new AFTER INSERT OR DELETE ON kafka.client_quotas
FOR EACH ROW EXECUTE FUNCTION kafka.note_named('quota', 'entity');
CREATE TRIGGER note_changed AFTER UPDATE ON kafka.client_quotas
FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION kafka.note_named('quota', 'entity');
