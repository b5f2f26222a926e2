"""Producers through confluent-kafka, which is librdkafka: a process each, started together.

A process of its own (`python -m bench.librdkafka`) takes its orders as JSON on its command line, says "ready" when it is
connected, begins when it reads a line, and ends with a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from bench.java import LINGER_MS, TIMEOUT_S, ProducerRun

QUEUE_RECORDS = 200_000
_CHUNK = 1000


def produce(bootstrap: str, run: ProducerRun) -> dict[str, float]:
    """Records a second from the first start to the last acknowledgement. Raises RuntimeError."""
    each = run.records // run.producers
    order = json.dumps(
        {
            "topic": run.topic,
            "payload": str(run.payload),
            "records": each,
            "settings": {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": LINGER_MS,
                "batch.size": run.batch_bytes,
                "compression.type": run.codec,
                "queue.buffering.max.messages": QUEUE_RECORDS,
            },
        }
    )
    command = [sys.executable, "-m", "bench.librdkafka", order]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(run.producers)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a librdkafka producer did not start")
        outputs = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            outputs.append(process.communicate(timeout=TIMEOUT_S)[0])
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    if any(process.returncode for process in processes):
        raise RuntimeError("a librdkafka producer failed")
    moments = [json.loads(output) for output in outputs]
    seconds = max(one["end"] for one in moments) - min(one["start"] for one in moments)
    return {"records_per_s": each * run.producers / seconds}


def main() -> None:
    from confluent_kafka import Producer  # only the process that produces needs it

    order = json.loads(sys.argv[1])
    values = [{"value": line} for line in Path(order["payload"]).read_bytes().split(b"\n")]
    wanted = order["records"]
    failures: list[str] = []

    def fail(error: object) -> None:
        failures.append(str(error))

    producer = Producer({**order["settings"], "error_cb": fail})
    producer.list_topics(order["topic"], timeout=30)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.monotonic()
    sent = at = 0
    while sent < wanted and not failures:
        # Half a queue is enough to go on from; to try again and again while it is full would take the broker's processor.
        while len(producer) > QUEUE_RECORDS // 2:
            producer.poll(0.01)
        chunk = values[at : at + min(_CHUNK, wanted - sent)]
        taken = producer.produce_batch(order["topic"], [dict(one) for one in chunk])
        sent += taken
        at = (at + taken) % len(values)
        producer.poll(0)
    left = producer.flush(TIMEOUT_S)
    if left or failures:
        sys.exit(f"{left} records were not acknowledged: {failures[:3]}")
    print(json.dumps({"start": start, "end": time.monotonic()}))


if __name__ == "__main__":
    main()
