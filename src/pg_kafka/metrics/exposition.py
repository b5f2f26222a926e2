"""Families as text, in the form and the encoding that is asked for.

Prometheus' text format 0.0.4, or OpenMetrics 1.0.0 for who accepts it; compressed with gzip for who accepts that.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import NamedTuple

from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

# As fast as the network, and a tenth of the size.
_GZIP_LEVEL = 1


class Form(NamedTuple):
    """What somebody asks for."""

    is_openmetrics: bool
    is_compressed: bool

    @classmethod
    def wanted(cls, accept: str, accept_encoding: str) -> Form:
        """By the headers of a request."""
        return cls("application/openmetrics-text" in _accepted(accept), "gzip" in _accepted(accept_encoding))

    @property
    def content_type(self) -> str:
        return CONTENT_TYPE_OPENMETRICS if self.is_openmetrics else CONTENT_TYPE_PLAIN_0_0_4


class _Collected:
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def text(families: Sequence[Metric], form: Form) -> bytes:
    """The page. May run in a thread of its own: it reads nothing but `families`."""
    generate = generate_openmetrics if form.is_openmetrics else generate_latest
    page = generate(_Collected(families))
    return gzip.compress(page, _GZIP_LEVEL) if form.is_compressed else page


def _accepted(header: str) -> set[str]:
    """What a header names and does not refuse with `q=0`."""
    named = set()
    for item in header.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        if weight.strip("0."):
            named.add(name)
    return named
