"""Kafka's wire format: frames, messages and record batches. No I/O, no clock."""
