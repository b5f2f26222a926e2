"""Stories: tests that wait more than they work, so that all of a module that were asked for are played at the same time.

With the first one that a test waits for, those of all tests of the module that will run begin; each test waits for its
own. A story is called with its stage (what the stories of one flavour share) and the test's `library`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import pytest


class Closes(Protocol):
    def close(self) -> None: ...


S = TypeVar("S", bound=Closes)


class Stories(Generic[S]):
    """The stories of a module by the names of their tests, which have the parameters `group_flavour` and `library`."""

    def __init__(
        self,
        request: pytest.FixtureRequest,
        stories: Mapping[str, Callable[[S, str], None]],
        open_stage: Callable[[str], S],
        at_a_time: int,
    ) -> None:
        self._request = request
        self._stories = stories
        self._open_stage = open_stage
        self._pool = ThreadPoolExecutor(at_a_time)
        self._stages: dict[str, S] = {}
        self._playing: dict[tuple[str, str, str], Future[None]] = {}

    def play(self, flavour: str, test: str, library: str) -> None:
        """Returns when the story of a test has been played; raises what it raised."""
        if flavour not in self._stages:
            self._begin(flavour)
        self._playing[flavour, test, library].result()

    def close(self) -> None:
        """Plays no more."""
        for future in self._playing.values():
            future.cancel()
        for stage in self._stages.values():
            stage.close()
        self._pool.shutdown()

    def _begin(self, flavour: str) -> None:
        stage = self._stages[flavour] = self._open_stage(flavour)
        module = self._request.module
        for item in self._request.session.items:
            if isinstance(item, pytest.Function) and item.module is module and item.originalname in self._stories:
                given = item.callspec.params
                if given["group_flavour"] == flavour:
                    story = self._stories[item.originalname]
                    key = flavour, item.originalname, given["library"]
                    self._playing[key] = self._pool.submit(story, stage, given["library"])
