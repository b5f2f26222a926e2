"""An answer that is an error, about a request or about one topic or resource of it, raised where it is found."""

from __future__ import annotations

# Messages quote what was sent. A name may have 32,767 bytes, which is also the most that a message may have.
MAX_MESSAGE_CHARACTERS = 1000


class Refused(Exception):
    """Error code and message for the answer."""

    def __init__(self, code: int, message: str | None) -> None:
        super().__init__(message)
        self.code = int(code)
        self.message = shortened(message)


def shortened(message: str | None) -> str | None:
    """The message, or as much of it as an answer needs."""
    if message is None or len(message) <= MAX_MESSAGE_CHARACTERS:
        return message
    return message[:MAX_MESSAGE_CHARACTERS] + "..."
