"""What a client may do, as the bit sets that some answers carry; the doors know it."""

from __future__ import annotations

from typing import Final

NOT_ASKED: Final = -(2**31)
