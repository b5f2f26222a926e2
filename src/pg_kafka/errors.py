"""The errors that cross layers.

FatalError ends the program: `pg-kafka: <sentence>` on stderr, exit code 1, no traceback.
StorageError ends one request: it carries the Kafka error code that the client gets.
"""


class FatalError(Exception):
    """The program cannot go on; the message is one sentence for the person who started it."""


class ConfigError(FatalError):
    """A setting is unknown, unreadable or out of range."""


class StorageError(Exception):
    """An operation on the database failed.

    `code` is a number of `pg_kafka.wire.error_codes.ErrorCode`; `retriable`: the same request may succeed later.
    """

    def __init__(self, retriable: bool, code: int, message: str) -> None:
        super().__init__(message)
        self.retriable = retriable
        self.code = int(code)
        self.message = message
