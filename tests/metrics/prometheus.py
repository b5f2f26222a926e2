"""Prometheus itself, from Debian's package: it scrapes brokers of a test, and answers queries on what it has seen.

`promtool(...)` runs the checker, `Prometheus(...)` is a server with a folder and a port of its own. Both raise
ToolMissing where the package is not installed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.kafka_reference import HOST, end, free_port, need, spawn, tail

COMES_FROM = "apt-get install prometheus"
DEADLINE_S = 60.0
# How often it scrapes and evaluates rules: a test waits for a few of these.
INTERVAL = "1s"


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; raises ToolMissing."""
    return need(name, COMES_FROM)


def promtool(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, whatever its exit code."""
    return subprocess.run(
        [program("promtool"), *arguments], input=stdin, capture_output=True, text=True, timeout=120, check=False
    )


@dataclass(frozen=True)
class Series:
    """One line of an instant query's answer."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """A server that scrapes some addresses, from the start of the `with` block to its end."""

    def __init__(
        self, folder: Path, targets: Sequence[str], rules: Mapping[str, Any] | None = None, job: str = "pg_kafka"
    ) -> None:
        self.folder = folder
        self.log = folder / "prometheus.log"
        folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": list(targets)}]}],
        }
        if rules is not None:
            (folder / "rules.yml").write_text(json.dumps(dict(rules)))
            settings["rule_files"] = ["rules.yml"]
        # Every JSON text is YAML.
        self._settings = folder / "prometheus.yml"
        self._settings.write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    def __enter__(self) -> Prometheus:
        port = free_port()
        self._url = f"http://{HOST}:{port}"
        self._process = spawn(
            [
                program("prometheus"),
                f"--config.file={self._settings}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address={HOST}:{port}",
                "--storage.tsdb.retention.time=1d",
            ],
            self.log,
        )
        self.wait(self._is_ready, "Prometheus is ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        end(self._process, signal.SIGTERM)

    def query(self, expression: str) -> list[Series]:
        """An instant query. Raises AssertionError with Prometheus' own words when it refuses."""
        answer = self._get("/api/v1/query", query=expression)
        if answer["resultType"] == "scalar":
            return [Series({}, float(answer["result"][1]))]
        return [Series(one["metric"], float(one["value"][1])) for one in answer["result"]]

    def query_range(self, expression: str) -> list[dict[str, Any]]:
        """A query over the last quarter of an hour, as a panel with a graph asks it."""
        now = time.time()
        answer = self._get("/api/v1/query_range", query=expression, start=now - 900, end=now, step=2)
        found: list[dict[str, Any]] = answer["result"]
        return found

    def label_values(self, label: str, selector: str) -> list[str]:
        """What a variable of a dashboard offers."""
        found: list[str] = self._get(f"/api/v1/label/{label}/values", **{"match[]": selector})
        return found

    def firing(self) -> dict[str, list[dict[str, Any]]]:
        """The alerts that fire, by name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for alert in self._get("/api/v1/alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """What the condition gives, once it is true. Prometheus tells nobody of what it has scraped."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := condition()):
            assert self._process is not None
            assert self._process.poll() is None, tail(self.log)
            assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S:.0f} s\n{tail(self.log)}"
            time.sleep(0.1)
        return found

    def wait_for_looks(self, targets: int, count: int = 2) -> None:
        """Until each target has been scraped so often."""
        self.wait_for(f"min(count_over_time(up[1h])) >= {count} and count(up == 1) == {targets}")

    def wait_for(self, expression: str) -> None:
        """Until there is an answer."""
        self.wait(lambda: self.query(expression), expression)

    def wait_for_alert(self, name: str) -> dict[str, Any]:
        """The alert of this name, once it fires."""
        alert: dict[str, Any] = self.wait(lambda: self.firing().get(name), f"{name} fires")[0]
        return alert

    def wait_for_no_alert(self, name: str) -> None:
        self.wait(lambda: name not in self.firing(), f"{name} ends")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, path: str, **parameters: object) -> Any:
        url = f"{self._url}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{parameters}: {refused.read().decode()}") from None
        assert body["status"] == "success", body
        return body["data"]
