"""The dashboard is one that Grafana reads: by its published types, and by what types cannot say."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kafka_reference import BUILD_DIR, ToolMissing, need

from pg_kafka.dashboards import overview

GRAFANA_DIR = Path(__file__).parent / "grafana"


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


DASHBOARD = overview.dashboard()
PANELS = list(panels(DASHBOARD))
PICTURES = [panel for panel in PANELS if panel["type"] != "row"]


def compiler() -> list[str]:
    """TypeScript's, beside Grafana's types, as the lock file names them."""
    try:
        node, npm = (need(tool, "apt-get install nodejs npm") for tool in ("node", "npm"))
    except ToolMissing as missing:
        pytest.skip(str(missing))
    target = BUILD_DIR / "grafana"
    target.mkdir(parents=True, exist_ok=True)
    lock = target / "package-lock.json"
    wanted = (GRAFANA_DIR / "package-lock.json").read_bytes()
    tsc = target / "node_modules" / "typescript" / "bin" / "tsc"
    if not (lock.exists() and lock.read_bytes() == wanted and tsc.exists()):
        for file in GRAFANA_DIR.glob("package*.json"):
            shutil.copyfile(file, target / file.name)
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=target, check=True, capture_output=True, timeout=300)
    return [node, str(tsc)]


def refusals(dashboards: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """What the compiler says of each, in one run."""
    program = [*compiler(), "--noEmit", "--strict", "--skipLibCheck", "--module", "esnext"]
    types, _, check = (GRAFANA_DIR / "types.ts").read_text().rstrip().rpartition("\n")
    checks = [
        check.replace("dashboard =", f"_{index} =").replace("DASHBOARD", json.dumps(dashboard))
        for index, dashboard in enumerate(dashboards.values())
    ]
    source = BUILD_DIR / "grafana" / f"dashboards-{os.getpid()}.ts"
    source.write_text("\n".join([types, *checks]))
    try:
        command = [*program, "--moduleResolution", "bundler", source.name]
        done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False, timeout=100)
    finally:
        source.unlink()
    found: dict[str, list[str]] = {name: [] for name in dashboards}
    first = types.count("\n") + 2
    for line, text in re.findall(rf"{source.stem}\.ts\((\d+),.*?(error .*)", done.stdout):
        assert int(line) >= first, done.stdout
        found[list(dashboards)[int(line) - first]].append(text)
    assert done.returncode == 0 or any(found.values()), done.stdout + done.stderr
    return found


def test_grafanas_types_accept_the_dashboard_and_refuse_what_is_wrong() -> None:
    graph = next(panel for panel in DASHBOARD["panels"] if panel["type"] == "timeseries")

    def with_graph(**changed: Any) -> dict[str, Any]:
        return {**DASHBOARD, "panels": [{**graph, **changed}]}

    found = refusals(
        {
            "as it is": DASHBOARD,
            "unknown key": {**DASHBOARD, "colour": 1},
            "no such value": {**DASHBOARD, "graphTooltip": 7},
            "wrong type": {**DASHBOARD, "schemaVersion": "39"},
            "a graph": with_graph(),
            "no such panel": with_graph(type="graph"),
            "no such mode": with_graph(options={**graph["options"], "legend": {"displayMode": "heap"}}),
        }
    )
    assert {name for name, errors in found.items() if not errors} == {"as it is", "a graph"}, found


def test_panels_have_numbers_of_their_own() -> None:
    numbers = [panel["id"] for panel in PANELS]
    assert len(numbers) == len(set(numbers))


def test_panels_do_not_overlap_and_fit_the_width() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    for place in places:
        assert place["x"] + place["w"] <= 24
    for one, other in itertools.combinations(places, 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_below, (one, other)


@pytest.mark.parametrize("panel", PICTURES, ids=lambda panel: panel["title"])
def test_each_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_all_variables_that_are_used_are_there() -> None:
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {"__rate_interval", "__all"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used <= known
    assert {"job", "instance", "topic", "consumergroup"} <= used


def test_each_expression_is_about_the_brokers_that_are_chosen() -> None:
    for panel in PICTURES:
        for target in panel["targets"]:
            for selector in re.findall(r"\{(.*?)\}", target["expr"]):
                assert 'job=~"$job"' in selector, (panel["title"], selector)
