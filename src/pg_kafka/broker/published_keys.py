"""The keys that an issuer publishes, read again and again: from a file, or from an address.

    keys = PublishedKeys(settings, steady_s)
    await keys.start()            raises FatalError when a file cannot be used
    keys.current                  the KeySet, or None while there has never been one
    await keys.renewed()          True: it has been read again just now, because of a key that is not known
    await keys.stop()

A file is looked at each second. An address is asked every `sasl.oauthbearer.jwks.endpoint.refresh.ms`, again after a growing
pause when it fails, and earlier when a token names a key that is not known, though not more often than each ten seconds.
What was read before stays when reading fails. Everything that can block runs in a thread that nobody has to wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from pg_kafka.config.oauth import OauthSettings
from pg_kafka.errors import FatalError
from pg_kafka.security.jwks import MAX_BYTES, InvalidKeys, KeySet
from pg_kafka.tasks import supervised

logger = logging.getLogger("pg_kafka.keys")

FILE_LOOK_S = 1.0
FETCH_TIMEOUT_S = 10.0
# Of one read from a socket, and so of a thread that is no longer waited for.
READ_TIMEOUT_S = 5.0
# Between two readings that tokens with unknown keys ask for.
MIN_BETWEEN_S = 10.0
# So long a client waits for such a reading.
RENEWAL_TIMEOUT_S = 5.0
_CHUNK_BYTES = 64 * 1024

Read = Callable[[], bytes]
_Signature = tuple[int, int, int, int]


class CannotRead(Exception):
    """The keys are not to be had; the text is for the log."""


class PublishedKeys:
    """See the module. All of it runs on the event loop's thread but `_read`."""

    def __init__(self, settings: OauthSettings, steady_s: Callable[[], float], on_death: Callable[[str], None]) -> None:
        self._settings = settings
        self._steady_s = steady_s
        self._on_death = on_death
        self._path = file_of(settings.url)
        self._seen: _Signature | None = None  # of the file, when it was read last
        self._read_at_s = -MIN_BETWEEN_S
        self._wanted = asyncio.Event()
        self._reading: asyncio.Future[bool] | None = None
        self._task: asyncio.Task[None] | None = None
        self.current: KeySet | None = None

    async def start(self) -> None:
        """Read for the first time, and go on in the background.

        Raises FatalError when a file cannot be used. An address that does not answer is asked again: until then nobody
        can log in by a token, and everybody else is served.
        """
        try:
            await self._renew()
        except CannotRead as error:
            if self._path is not None:
                raise FatalError(f"sasl.oauthbearer.jwks.endpoint.url = {self._settings.url}: {error}") from error
            self._warn(error)
        self._task = supervised(self._run(), "published keys", self._on_death)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task

    async def renewed(self) -> bool:
        """Have the keys read again, unless that has been done within the last seconds. True when it was done."""
        if self._reading is None:
            if self._steady_s() - self._read_at_s < MIN_BETWEEN_S:
                return False
            self._reading = asyncio.get_running_loop().create_future()
            self._wanted.set()
        try:
            async with asyncio.timeout(RENEWAL_TIMEOUT_S):
                return await asyncio.shield(self._reading)
        except TimeoutError:
            return False

    async def _run(self) -> None:
        """Read when it is time, until cancelled."""
        backoff_s = 0.0
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s(backoff_s)):
                        await self._wanted.wait()
                self._wanted.clear()
                if self._reading is None and self._path is not None and self._is_as_read():
                    continue
                waiting, succeeded = self._reading, False
                try:
                    await self._renew()
                    succeeded, backoff_s = True, 0.0
                except CannotRead as error:
                    self._warn(error)
                    backoff_s = self._next_backoff_s(backoff_s)
                finally:
                    self._reading = None
                    if waiting is not None and not waiting.done():
                        waiting.set_result(succeeded)
        finally:
            if self._reading is not None and not self._reading.done():
                self._reading.set_result(False)

    def _pause_s(self, backoff_s: float) -> float:
        if self._path is not None:
            return FILE_LOOK_S
        if self.current is None and not backoff_s:
            return self._next_backoff_s(0.0)
        return backoff_s or self._settings.refresh_ms / 1000

    def _next_backoff_s(self, last_s: float) -> float:
        first_s, most_s = self._settings.backoff_ms / 1000, self._settings.backoff_max_ms / 1000
        return max(min(last_s * 2 if last_s else first_s, most_s), 0.01)

    def _is_as_read(self) -> bool:
        assert self._path is not None
        try:
            return _signature(self._path) == self._seen
        except OSError:
            # A file that is being replaced is not there for a moment; what has been read stays.
            return True

    async def _renew(self) -> None:
        """Raises CannotRead."""
        self._read_at_s = self._steady_s()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                keys = await _in_thread(self._read)
        except (CannotRead, InvalidKeys, TimeoutError) as error:
            reason = str(error) or f"no answer within {FETCH_TIMEOUT_S:.0f} s"
            raise CannotRead(reason) from error
        if self.current is None or [key.kid for key in keys.keys] != [key.kid for key in self.current.keys]:
            logger.info(
                "keys for tokens",
                extra={
                    "url": self._settings.url,
                    "keys": [key.kid for key in keys.keys][:20],
                    "left_out": list(keys.left_out)[:5],
                },
            )
        self.current = keys

    def _warn(self, error: CannotRead) -> None:
        logger.warning(
            "cannot read the keys for tokens",
            extra={"url": self._settings.url, "reason": str(error), "kept": self.current is not None},
        )

    def _read(self) -> KeySet:
        """In a thread. Raises CannotRead, InvalidKeys."""
        if self._path is None:
            return KeySet.read(_fetched(self._settings.url, self._steady_s))
        try:
            self._seen = _signature(self._path)
            with self._path.open("rb") as file:
                text = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise CannotRead(f"{error.strerror}") from error
        return KeySet.read(text)


def file_of(url: str) -> Path | None:
    """The file that a URL names, or None for one of a server."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _signature(path: Path) -> _Signature:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys come from the address that is configured: a redirect could lead to one without TLS, or to an inner one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        return None


def _fetched(url: str, steady_s: Callable[[], float]) -> bytes:
    """What is at the address, within a time and a size. Raises CannotRead."""
    deadline_s = steady_s() + FETCH_TIMEOUT_S
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    parts: list[bytes] = []
    size = 0
    try:
        opener = urllib.request.build_opener(_NoRedirects)
        with opener.open(request, timeout=READ_TIMEOUT_S) as answer:
            while chunk := answer.read1(_CHUNK_BYTES):
                parts.append(chunk)
                size += len(chunk)
                if size > MAX_BYTES:
                    raise CannotRead(f"more than {MAX_BYTES} bytes")
                if steady_s() > deadline_s:
                    raise CannotRead(f"not complete within {FETCH_TIMEOUT_S:.0f} s")
    except urllib.error.HTTPError as error:
        error.close()
        raise CannotRead(f"the server answers {error.code}") from None
    except (OSError, ValueError, EOFError) as error:
        raise CannotRead(f"{getattr(error, 'reason', None) or error}") from error
    except Exception as error:  # http.client has exceptions of its own for what is no HTTP
        raise CannotRead(f"no HTTP: {type(error).__name__}") from error
    return b"".join(parts)


async def _in_thread(work: Callable[[], Any]) -> Any:
    """Run what may block for long in a thread that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=run, name="published keys", daemon=True).start()
    return await future
