from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar, final
from uuid import UUID

from pg_kafka.wire.messages.produce import ProduceRequest, TopicProduceData

Header = TypeVar("Header", bound=tuple[int, int, int, str | None])

class Appended(Protocol):
    """What became of one batch."""

    base_offset: int
    log_append_time_ms: int
    log_start_offset: int

@final
class FrameSplitter:
    max_frame_bytes: int
    def __init__(self, max_frame_bytes: int) -> None: ...
    @property
    def buffered_bytes(self) -> int: ...
    def feed(self, data: bytes | memoryview) -> list[bytes | memoryview]: ...

@final
class HeaderReader(Generic[Header]):
    def __init__(self, header_class: type[Header], flexible: Mapping[int, tuple[int, int]]) -> None: ...
    def __call__(self, frame: bytes | memoryview) -> tuple[Header, int] | None: ...

@final
class RequestReader:
    def __init__(
        self,
        version: int,
        general: Callable[[bytes | memoryview, int, int], ProduceRequest],
        read_uuid: Callable[[bytes], UUID],
    ) -> None: ...
    def __call__(self, data: bytes | memoryview, offset: int, max_items: int) -> ProduceRequest: ...

def acknowledgement(
    version: int, correlation_id: int, topics: Sequence[TopicProduceData], results: Sequence[Appended]
) -> bytes: ...
