"""The yardstick: pg_kafka, Apache Kafka and plain PostgreSQL on one machine, in turns, with the same clients.

    make bench                                   the short profile
    make bench ARGS='--profile full'             all workloads, an hour
    make bench ARGS='--list'                     what each profile runs

A workload is a file: produce, consume, latency, small_producers, width, sql, endurance, groups, and copy_rows for what
PostgreSQL does without a broker. profiles.py says which of them run and how large; turns.py runs them, system by system;
systems.py starts and stops what is measured; meter.py reads processor time, memory, WAL and disk. measurements.py is what
comes out, and results.py, tables.py, targets.py and chart.py are what becomes of it.

Clients: java.py (Kafka's own producer perf tool, a consumer), librdkafka.py, and raw.py for a thousand connections.
outbox.py compares producing and consuming by SQL with pgmq and a polling outbox (ways.py), without the rest of the above.
codec.py and wire_codec.py time parts of the broker alone: make bench BENCH=codec. bare.py speaks to PostgreSQL without a driver:
append.py and lone_requests.py compare INSERT with COPY that way and through the broker, server_settings.py settings of the
embedded server.
"""
