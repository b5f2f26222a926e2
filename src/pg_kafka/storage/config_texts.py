"""Configs of topics and groups as the database holds them: an object of texts, unless somebody has written otherwise."""

from __future__ import annotations

import json
from typing import Any


def as_texts(configs: Any) -> dict[str, str]:
    """Configs as the broker writes them; somebody else may have put numbers, or anything."""
    if not isinstance(configs, dict):
        return {}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in configs.items()}
