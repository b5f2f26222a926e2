"""`pg-kafka` with a window into it: who connects to a Unix socket is told what the process holds, as a JSON object.

    python -m tests.fuzz.watched_broker SOCKET ADDRESS_SPACE_BYTES serve --listen ...

The address space is a limit that the kernel keeps: beyond it, allocations fail.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import socket
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

from pg_kafka import cli
from pg_kafka.broker.connection import Connection
from pg_kafka.broker.context import Context
from pg_kafka.broker.reply import Reply
from pg_kafka.broker.server import Server

PER_REQUEST = (Connection, Context, Reply)


def answer(listener: socket.socket) -> None:
    found: dict[type, Any] = {}
    while True:
        peer, _ = listener.accept()
        with peer:
            gc.collect()
            objects = gc.get_objects()
            found |= {type(one): one for one in objects if type(one) in (Server, uvloop.Loop)}
            held = Counter(type(one).__name__ for one in objects if type(one) in PER_REQUEST)
            del objects
            peer.sendall(json.dumps(state(found[Server], found[uvloop.Loop]) | {"held": held}).encode())


def state(server: Server, loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    return {
        "tasks": Counter(name(task) for task in asyncio.all_tasks(loop)),
        "connections": server.connection_count,
        "request_bytes": server.request_bytes,
        "unwritten_bytes": server._log_queued_bytes(),
        "threads": threading.active_count(),
        "files": len(list(Path("/proc/self/fd").iterdir())),
    }


def name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", repr(task))


def main() -> None:
    place, address_space_bytes, *arguments = sys.argv[1:]
    Path(place).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    threading.Thread(target=answer, args=(listener,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (int(address_space_bytes),) * 2)
    cli.main(arguments)


if __name__ == "__main__":
    main()
