"""How a connection of a SASL listener says who it is. The rules of the dialogue are `security/sasl.py`.

Each mechanism is a factory in `SaslRules.factories`; for each dialogue it makes a `Verifier`, which gets the client's tokens
one after the other until it knows who that is, or raises:

    class Everybody:
        async def respond(self, message: bytes) -> Challenge | Authenticated:
            return Authenticated(principal="User:" + message.decode())

    rules = SaslRules(factories={"NAME": lambda connection: Everybody()})
    login = Login(rules, connection, clock)
    login.step(frame, now)                              what to do with a frame (`Step`)
    header, offset = login.read(frame)                  of one that belongs to the dialogue
    await login.respond(step, header, frame, offset)    what it is answered

`entrance.py` sends answers in their turn, lets failures wait, and closes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pg_kafka.broker.client import ConnectionInfo, Kind
from pg_kafka.security.sasl import API_VERSIONS, AUTHENTICATE, HANDSHAKE, Dialogue, Rejected, State, Step
from pg_kafka.wire import codec
from pg_kafka.wire.codec import MalformedRequest
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import RequestHeader, decode_request_header, response_frame
from pg_kafka.wire.messages import API_NAMES
from pg_kafka.wire.messages.api_versions import ApiVersionsResponse
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse

__all__ = [
    "Answer",
    "Authenticated",
    "AuthenticationFailed",
    "CannotVerify",
    "Challenge",
    "Factory",
    "Login",
    "SaslRules",
    "Step",
    "Verifier",
]

_LAST_VERSIONS = {HANDSHAKE: 1, AUTHENTICATE: 2}
# A header that nobody sends, for what has none.
_RAW = RequestHeader(AUTHENTICATE, 0, 0, None)
_MAX_ITEMS = 100
_MAX_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Challenge:
    """The client has to answer this with another token."""

    message: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """It is proved who the client is."""

    principal: str  # "User:alice"
    kind: str = Kind.USER
    message: bytes = b""  # the mechanism's last one
    lifetime_ms: int | None = None  # how long that holds from now on; None: without end
    proof: Hashable = None  # what has proved it: once that is revoked, the connection is closed; None: it is never


class AuthenticationFailed(Exception):
    """The client is not who it says it is, or did not say it in the mechanism's form.

    `reason` is for our log, `shown` for the client: Kafka's sentence, or "" where the client learns nothing but that it
    failed. `claimed` is the name that it gave, as far as one can be read. None of them holds a secret.
    """

    def __init__(self, reason: str, *, shown: str = "", claimed: str = "") -> None:
        super().__init__(reason)
        self.shown = shown
        self.claimed = claimed


class CannotVerify(Exception):
    """It cannot be said at the moment who the client is. The connection is closed without an answer, so that it tries again:
    an answer would tell it that its credentials are wrong. The text is for our log."""


class Verifier(Protocol):
    """One dialogue of one mechanism."""

    async def respond(self, message: bytes) -> Challenge | Authenticated:
        """Take the client's next token. Called one at a time, and not again after it has raised or returned Authenticated.

        Raises AuthenticationFailed, CannotVerify.
        """


Factory = Callable[[ConnectionInfo], Verifier]
"""Called when a client has chosen the mechanism. It neither waits nor raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaslRules:
    """What holds for the connections of one listener."""

    factories: Mapping[str, Factory]  # by mechanism, in the order in which clients are told them
    max_reauth_ms: Mapping[str, int] = field(default_factory=dict)  # connections.max.reauth.ms by mechanism
    max_receive_bytes: int = 32 * 1024  # of a frame, and of what has arrived, while it is not known who sends
    failed_delay_s: float = 0.1  # from the last token to the answer that it was wrong
    deadline_s: float = 30.0  # from the connection, or the beginning of a re-authentication, to the proof


@dataclass(frozen=True, slots=True)
class Answer:
    """What the dialogue says to one frame."""

    header: RequestHeader
    parts: list[bytes | memoryview] = field(default_factory=list)  # nothing: no answer
    code: int = ErrorCode.NONE
    failure: str = ""  # why the connection ends, for our log
    claimed: str = ""  # who has failed, by its own word
    is_delayed: bool = False  # the answer and the end wait for `SaslRules.failed_delay_s`
    has_opened: bool = False  # it is known who it is, for the first time or again


FailedForm = Callable[[RequestHeader, bytes | memoryview, int, int], list[bytes | memoryview]]
"""(header, frame, where its body begins, error code) -> the answer in the API's own form; nothing where there is none."""


class Login:
    """The dialogue of one connection, and what it leads to."""

    __slots__ = ("_clock", "_connection", "_dialogue", "_failed_form", "_rules", "_verifier", "proof")

    def __init__(
        self,
        rules: SaslRules,
        connection: ConnectionInfo,
        clock: Callable[[], float],
        failed_form: FailedForm = lambda *_: [],
    ) -> None:
        """`clock` gives the seconds of the event loop; `failed_form` answers what is asked in the middle of the dialogue."""
        self._rules = rules
        self._failed_form = failed_form
        self._connection = connection
        self._clock = clock
        self._dialogue = Dialogue(tuple(rules.factories), rules.max_reauth_ms)
        self._verifier: Verifier | None = None
        self.proof: Hashable = None

    @property
    def is_open(self) -> bool:
        """It is known who it is. While that is asked again, it is not."""
        return self._dialogue.state is State.OPEN

    @property
    def session_end_s(self) -> float:
        """Until when that holds, by the clock."""
        return self._dialogue.session_end_s

    @property
    def mechanism(self) -> str:
        return self._dialogue.mechanism

    @property
    def is_again(self) -> bool:
        """It is a re-authentication."""
        return self._dialogue.is_again

    @property
    def name(self) -> str:
        """authentication, or re-authentication."""
        return self._dialogue.name

    def step(self, frame: bytes | memoryview, now_s: float) -> Step:
        """What becomes of a frame."""
        return self._dialogue.step(int.from_bytes(frame[:2]), now_s)

    def read(self, frame: bytes | memoryview) -> tuple[RequestHeader, int]:
        """The header of a frame of the dialogue and the offset of what follows. Raises MalformedRequest."""
        if self._dialogue.state is State.RAW:
            return _RAW, 0
        header, offset = decode_request_header(frame)
        if not 0 <= header.api_version <= _LAST_VERSIONS.get(header.api_key, header.api_version):
            raise MalformedRequest(f"version {header.api_version} of API {header.api_key} is not served")
        return header, offset

    async def respond(self, step: Step, header: RequestHeader, frame: bytes | memoryview, offset: int) -> Answer:
        """The answer to Step.HANDSHAKE, Step.TOKEN and Step.MISPLACED. Raises MalformedRequest."""
        if step is Step.MISPLACED:
            return self._misplaced(header, frame, offset)
        if header is _RAW:
            return await self._token(header, bytes(frame), is_raw=True)
        request = codec.decode_request(header.api_key, header.api_version, frame, offset, _MAX_ITEMS)
        if isinstance(request, SaslHandshakeRequest):
            return self._handshake(header, request.mechanism)
        assert isinstance(request, SaslAuthenticateRequest)
        return await self._token(header, request.auth_bytes, is_raw=False)

    def _handshake(self, header: RequestHeader, mechanism: str) -> Answer:
        mechanisms = list(self._rules.factories)
        if self._dialogue.handshake(mechanism, header.api_version, self._clock()):
            self._verifier = self._rules.factories[mechanism](self._connection)
            return Answer(header, _encoded(header, SaslHandshakeResponse(mechanisms=mechanisms)))
        code = ErrorCode.UNSUPPORTED_SASL_MECHANISM
        return Answer(
            header,
            _encoded(header, SaslHandshakeResponse(error_code=code, mechanisms=mechanisms)),
            code,
            f"Unsupported SASL mechanism {mechanism[:_MAX_SHOWN_CHARACTERS]!r}",
            is_delayed=True,
        )

    def _misplaced(self, header: RequestHeader, frame: bytes | memoryview, offset: int) -> Answer:
        code = ErrorCode.ILLEGAL_SASL_STATE
        self._dialogue.fail()
        reason = f"API {API_NAMES.get(header.api_key, 'unknown')} (key {header.api_key}) during SASL authentication"
        if header.api_key == HANDSHAKE:
            parts = _encoded(header, SaslHandshakeResponse(error_code=code))
        elif header.api_key == API_VERSIONS:
            # Any version may have been asked for; everybody reads this one.
            header = header._replace(api_version=0)
            parts = _encoded(header, ApiVersionsResponse(error_code=code))
        else:
            parts = self._failed_form(header, frame, offset, code)
        return Answer(header, parts, code, reason, is_delayed=True)

    async def _token(self, header: RequestHeader, token: bytes, *, is_raw: bool) -> Answer:
        assert self._verifier is not None
        try:
            self._dialogue.check_mechanism()
            said = await self._verifier.respond(token)
            if isinstance(said, Challenge):
                return Answer(header, _spoken(header, is_raw, said.message, 0))
            lifetime_ms = self._dialogue.authenticate(said.principal, said.lifetime_ms, self._clock())
        except Rejected as error:
            return self._failed(header, is_raw, str(error), str(error), "")
        except AuthenticationFailed as error:
            return self._failed(header, is_raw, str(error), error.shown, error.claimed)
        except CannotVerify as error:
            self._dialogue.fail()
            return Answer(header, code=ErrorCode.NETWORK_EXCEPTION, failure=str(error))
        self._verifier = None
        self._connection.principal, self._connection.kind = said.principal, said.kind
        self.proof = said.proof
        return Answer(header, _spoken(header, is_raw, said.message, lifetime_ms), has_opened=True)

    def _failed(self, header: RequestHeader, is_raw: bool, reason: str, shown: str, claimed: str) -> Answer:
        code = ErrorCode.SASL_AUTHENTICATION_FAILED
        shown = shown or (
            f"Authentication failed during {self._dialogue.name} due to invalid credentials with SASL mechanism"
            f" {self._dialogue.mechanism}"
        )
        self._dialogue.fail()
        message = SaslAuthenticateResponse(error_code=code, error_message=shown)
        # There is no form for an error where tokens come alone.
        parts = [] if is_raw else _encoded(header, message)
        return Answer(header, parts, code, reason, claimed[:_MAX_SHOWN_CHARACTERS], is_delayed=True)


def _spoken(header: RequestHeader, is_raw: bool, token: bytes, lifetime_ms: int) -> list[bytes | memoryview]:
    if is_raw:
        return [len(token).to_bytes(4), token]
    # Apache Kafka has no message here, and sends an empty one.
    message = SaslAuthenticateResponse(error_message="", auth_bytes=token, session_lifetime_ms=lifetime_ms)
    return _encoded(header, message)


def _encoded(header: RequestHeader, message: Any) -> list[bytes | memoryview]:
    body = codec.encode_response(message, header.api_key, header.api_version, _MAX_ITEMS)
    return response_frame(header.correlation_id, header.api_key, header.api_version, body)
