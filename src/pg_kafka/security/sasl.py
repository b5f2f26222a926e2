"""The dialogue of a connection that has to say who it is: what may come next, and when it ends (KIP-43, KIP-152, KIP-368).

    dialogue = Dialogue(("SCRAM-SHA-512", "PLAIN"), max_reauth_ms={"PLAIN": 60_000})
    dialogue.step(18, now)                            Step.SERVE: ApiVersions is answered to everybody
    dialogue.step(17, now)                            Step.HANDSHAKE
    dialogue.handshake("PLAIN", 1, now)               True: the mechanism is taken
    dialogue.step(36, now)                            Step.TOKEN: what it holds goes to the mechanism
    dialogue.authenticate("User:alice", None, now)    60_000, the milliseconds that the session lasts
    dialogue.step(0, now)                             Step.SERVE: everything is

After SaslHandshake version 0, tokens come with their size and nothing else; from version 1 on they are within
SaslAuthenticate requests. When a session has an end, a handshake begins the dialogue again on the same connection: with the
same mechanism, for the same principal. Times are seconds of a steady clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from math import inf

HANDSHAKE, API_VERSIONS, AUTHENTICATE = 17, 18, 36
FIRST_WITH_REQUESTS = 1
"""The version of SaslHandshake from which on tokens are within requests."""
MIN_BETWEEN_S = 1.0
"""Between two beginnings of a re-authentication; a handshake in between is answered as one that is out of place."""


class State(Enum):
    BEGINNING = auto()  # the client asks for versions and chooses a mechanism
    RAW = auto()  # it has chosen, and sends tokens with nothing but their size
    REQUESTS = auto()  # it has chosen, and sends tokens in SaslAuthenticate
    OPEN = auto()  # it is known who it is
    FAILED = auto()  # the connection ends


class Step(Enum):
    """What is to be done with a frame."""

    SERVE = auto()  # as any other request
    HANDSHAKE = auto()  # it chooses a mechanism
    TOKEN = auto()  # it is, or holds, a token of the mechanism
    MISPLACED = auto()  # answer ILLEGAL_SASL_STATE where the API has a form for it, and close
    UNEXPECTED = auto()  # close: nobody may ask that before it is known who asks
    EXPIRED = auto()  # close: the session has ended
    IGNORED = auto()  # the connection is closing


# What each state takes, and what becomes of everything else. OPEN is `Dialogue.step`: there the time decides.
_STEPS: Mapping[State, tuple[Mapping[int, Step], Step]] = {
    State.BEGINNING: ({API_VERSIONS: Step.SERVE, HANDSHAKE: Step.HANDSHAKE}, Step.UNEXPECTED),
    State.RAW: ({}, Step.TOKEN),
    State.REQUESTS: (
        {AUTHENTICATE: Step.TOKEN},
        Step.MISPLACED,
    ),
    State.FAILED: ({}, Step.IGNORED),
}


class Rejected(Exception):
    """The dialogue has failed for another reason than a wrong proof. The text is Kafka's, and for the client."""


class Dialogue:
    """One connection's. `state` is FAILED after whatever raises or returns False."""

    __slots__ = (
        "_before",
        "_begun_s",
        "_max_reauth_ms",
        "_mechanisms",
        "mechanism",
        "principal",
        "session_end_s",
        "state",
    )

    def __init__(self, mechanisms: Sequence[str], max_reauth_ms: Mapping[str, int]) -> None:
        """`max_reauth_ms` has how long a session lasts by mechanism; 0 or none: as long as the credentials do."""
        self._mechanisms = mechanisms
        self._max_reauth_ms = max_reauth_ms
        self._begun_s = -inf  # the last re-authentication
        self._before: tuple[str, str] | None = None  # mechanism and principal that must be the same again
        self.state = State.BEGINNING
        self.mechanism = ""
        self.principal = ""
        self.session_end_s = inf

    @property
    def is_again(self) -> bool:
        """It is a re-authentication."""
        return self._before is not None

    @property
    def name(self) -> str:
        """As Kafka calls the dialogue in its messages."""
        return "re-authentication" if self.is_again else "authentication"

    def step(self, api_key: int, now_s: float) -> Step:
        """What to do with a frame of this API. In state RAW any key will do."""
        if self.state is not State.OPEN:
            taken, otherwise = _STEPS[self.state]
            return taken.get(api_key, otherwise)
        if api_key == HANDSHAKE and self.session_end_s < inf and now_s - self._begun_s >= MIN_BETWEEN_S:
            return Step.HANDSHAKE
        return Step.EXPIRED if now_s > self.session_end_s else Step.SERVE

    def handshake(self, mechanism: str, version: int, now_s: float) -> bool:
        """Take the client's choice after Step.HANDSHAKE; False when there is no such mechanism here."""
        if self.state is State.OPEN:
            self._before = (self.mechanism, self.principal)
            self._begun_s = now_s
        if mechanism not in self._mechanisms:
            self.state = State.FAILED
            return False
        self.mechanism = mechanism
        self.state = State.REQUESTS if version >= FIRST_WITH_REQUESTS else State.RAW
        return True

    def check_mechanism(self) -> None:
        """Before the first token is looked at: raises Rejected when a re-authentication is by another mechanism."""
        if self._before is not None and self._before[0] != self.mechanism:
            self.state = State.FAILED
            raise Rejected(
                f"SASL mechanism '{self.mechanism}' requested by client is not supported for re-authentication of"
                f" mechanism '{self._before[0]}'"
            )

    def authenticate(self, principal: str, lifetime_ms: int | None, now_s: float) -> int:
        """It has been proved who it is; for how many milliseconds that holds, 0 when there is no end.

        `lifetime_ms` is how long the credentials hold, None when they do not end. Raises Rejected for another principal
        than before.
        """
        if self._before is not None and self._before[1] != principal:
            self.state = State.FAILED
            raise Rejected(
                f"Cannot change principals during re-authentication from {_shown(self._before[1])}: {_shown(principal)}"
            )
        ends = [] if lifetime_ms is None else [max(lifetime_ms, 0)]
        if (longest := self._max_reauth_ms.get(self.mechanism, 0)) > 0:
            ends.append(longest)
        self.session_end_s = now_s + min(ends) / 1000 if ends else inf
        self.principal = principal
        self._before = None
        self.state = State.OPEN
        return min(ends, default=0)

    def fail(self) -> None:
        """The proof was wrong, or none."""
        self.state = State.FAILED


def _shown(principal: str) -> str:
    """A principal as Kafka writes it here: User.alice."""
    return principal.replace(":", ".", 1)
