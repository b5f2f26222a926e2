"""`pg-kafka bench`: how fast a broker is, any broker, seen from a small client of our own.

connection   one blocking connection that speaks the protocol
cluster      topics and who leads their partitions
batches      record batches made once and sent again and again
load         records in and out as fast as they go
open_loop    latency at a fixed rate
command      the phases one after the other, and what they found

The client costs next to nothing beside the broker: it neither makes nor parses records while it measures. Real clients do
both, so what an application sees is less.
"""
