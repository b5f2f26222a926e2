"""kafkajs behind the tests' common face. It consumes in groups only, and has no part in the tests of the other libraries."""

from __future__ import annotations

from tests.clients.agents import AgentClient
from tests.clients.groups import node_program


class KafkaJs(AgentClient):
    name = "kafkajs"
    administers = False

    def command(self) -> list[str]:
        return node_program("clients.js")
