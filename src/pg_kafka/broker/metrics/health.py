"""Whether the process lives, and whether it is of use to clients: what /healthz and /readyz say.

    health.to(State.WAITING, "another broker (db1:9092) leads")
    health.answer()        whether it is ready, and a sentence

Lives as long as the process. `/healthz` needs nothing of this: whoever gets an answer knows that the event loop turns.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """What the process does now."""

    STARTING = "starting"
    WAITING = "waiting"  # for the end of the broker that leads
    LEADING = "leading"
    STOPPING = "stopping"


class Answer(NamedTuple):
    """Of /readyz."""

    is_ready: bool
    sentence: str


class Health:
    """See the module."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self._answer = Answer(False, "starting: PostgreSQL is not reached yet")
        self._doubt: Callable[[], str | None] | None = None

    def starting(self, sentence: str) -> None:
        """Clients are not served, for the reason that is given."""
        self._to(State.STARTING, Answer(False, f"starting: {sentence}"))

    def waiting(self, sentence: str, *, is_useful: bool) -> None:
        """Another broker leads. Useful: clients that come here are told where it is."""
        self._to(State.WAITING, Answer(is_useful, f"waiting: {sentence}"))

    def leading(self, sentence: str, doubt: Callable[[], str | None]) -> None:
        """Clients are served, unless `doubt` has a reason why they cannot be."""
        self._to(State.LEADING, Answer(True, f"leading: {sentence}"), doubt)

    def stopping(self) -> None:
        self._to(State.STOPPING, Answer(False, "stopping"))

    def answer(self) -> Answer:
        """Whether clients should be sent here."""
        if self._doubt is not None and (reason := self._doubt()) is not None:
            return Answer(False, f"{self.state}: {reason}")
        return self._answer

    def _to(self, state: State, answer: Answer, doubt: Callable[[], str | None] | None = None) -> None:
        if self.state is not State.STOPPING:  # nothing follows it
            self.state, self._answer, self._doubt = state, answer, doubt
