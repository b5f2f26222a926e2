"""What the client tests need is asked for before it is used."""

from __future__ import annotations

import pytest
from tests.clients.agents import go_wanted, refuse_old_go
from tests.kafka_reference import ToolMissing


def test_go_that_is_too_old_is_a_sentence_and_no_failed_build() -> None:
    wanted = go_wanted()
    for old in ("go version go1.19.8 linux/amd64", "go version go1.25.9 linux/amd64", ""):
        with pytest.raises(ToolMissing, match=f"Go {wanted} or newer is needed"):
            refuse_old_go(old, wanted)
    for new in (f"go version go{wanted} linux/amd64", "go version go1.27rc1 darwin/arm64", "go version go2.0 x/y"):
        refuse_old_go(new, wanted)
