from typing import Final

NO_PARTITION: Final[int]
TOO_LARGE: Final[int]
NO_KEY: Final[int]
DAMAGED: Final[int]

Row = tuple[
    int,
    int | None,
    int,
    int,
    bytes | None,
    bytes | None,
    bytes | None,
    bytes | None,
    bytes | None,
    bytes | None,
]

class Spread:
    @property
    def batches(self) -> list[tuple[int, bytes]]: ...
    @property
    def pieces(self) -> list[tuple[int, int, int, int]]: ...
    @property
    def maps(self) -> list[bytes | None]: ...
    @property
    def failed(self) -> list[tuple[int, int, int, int]]: ...

def murmur2(data: bytes) -> int: ...
def partition_of(key: bytes, partitions: int) -> int: ...
def spread(
    rows: list[Row], partitions: int, *, batch_bytes: int, most_bytes: int, needs_key: bool = False
) -> Spread: ...
