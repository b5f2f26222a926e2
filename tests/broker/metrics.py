"""A client of /metrics, /healthz and /readyz, which reads metrics with Prometheus' own parsers."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

TIMEOUT_S = 20.0


class Answer(NamedTuple):
    status: int
    text: str
    headers: Mapping[str, str]


class Metrics:
    """Those of one broker, at HOST:PORT."""

    def __init__(self, place: str) -> None:
        self.place = place

    def get(self, path: str, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.place, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(), dict(response.getheaders()))
        finally:
            connection.close()

    def page(self, accept: str = "text/plain") -> str:
        """One that is made from now on, not one that is kept for those who ask again."""
        made = 0.0
        while True:
            page = self.get("/metrics", Accept=accept).text
            found = re.search(r"^pg_kafka_metrics_scrapes_total (\S+)$", page, re.MULTILINE)
            assert found is not None
            if made and float(found[1]) > made:
                return page
            made = float(found[1])
            time.sleep(0.01)

    def families(self, *, openmetrics: bool = False) -> dict[str, Metric]:
        parse: Any = parse_openmetrics if openmetrics else parse_text
        page = self.page("application/openmetrics-text" if openmetrics else "text/plain")
        return {family.name: family for family in parse(page)}

    def value(self, name: str, **labels: str) -> float | None:
        """Of the series with exactly these labels; None when there is none."""
        for family in self.families().values():
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return None

    def series(self, name: str = "") -> int:
        """How many there are, of one metric or of all."""
        lines = [line for line in self.page().splitlines() if not line.startswith("#")]
        return sum(not name or re.split("[{ ]", line, maxsplit=1)[0] == name for line in lines)
