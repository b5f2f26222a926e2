-- Version 5: subscriptions to metrics of clients.
-- Locks: none that anybody waits for.

CREATE TABLE kafka.client_metrics (
    name     text  PRIMARY KEY CHECK (name <> '' AND octet_length(name) <= 1000),
    configs  jsonb NOT NULL CHECK (jsonb_typeof(configs) = 'object')
);
COMMENT ON TABLE kafka.client_metrics IS
    'Subscriptions: which clients push which of their metrics, and how often. kafka.set_client_metrics() changes one; running brokers follow within a second.';
COMMENT ON COLUMN kafka.client_metrics.configs IS 'By Kafka''s names: metrics, interval.ms and match; what is not set has its default.';

CREATE TRIGGER note_new AFTER INSERT OR DELETE ON kafka.client_metrics
FOR EACH ROW EXECUTE FUNCTION kafka.note_named('client metrics', 'name');
CREATE TRIGGER note_changed AFTER UPDATE ON kafka.client_metrics
FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION kafka.note_named('client metrics', 'name');
