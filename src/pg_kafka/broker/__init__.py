"""The edge that Kafka clients talk to: listener, connections, the dispatch table and the request handlers."""
