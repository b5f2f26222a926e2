-- Version 5: brokers have several listeners, and tell each other the address of each. Locks: ACCESS EXCLUSIVE on kafka.brokers, for a moment.

ALTER TABLE kafka.brokers ADD COLUMN endpoints text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN kafka.brokers.endpoints IS 'Where clients of each listener reach the broker, as in SECURE://host:port. Empty: a broker of an older version, with one listener.';
