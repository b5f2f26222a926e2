"""Panels as Grafana reads them: the JSON of a dashboard from a list of rows.

    dashboard("pg_kafka", "What the broker does", [Row("Overview", [Panel("Lag", "...", "s", Query("..."))])], [...])

In expressions, BROKER, TOPIC and GROUP stand for the matchers of the dashboard's variables, and RATE for the time that
fits the resolution: `rate(pg_kafka_requests_total{BROKER}[RATE])`. The form is Grafana's dashboard schema, which newer
versions of Grafana go on reading: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_SCHEMA_VERSION: Final = 39  # of Grafana 10.4; older ones import it too
_WIDTH: Final = 24  # columns of a dashboard
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

_BROKER: Final = 'job=~"$job",instance=~"$instance"'
_MEANS: Final[Mapping[str, str]] = {
    "BROKER": _BROKER,
    "TOPIC": f'{_BROKER},topic=~"$topic"',
    "GROUP": f'{_BROKER},consumergroup=~"$consumergroup"',
    "RATE": "$__rate_interval",
}

GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "text"
# (from this value on, colour); the first one is for all that is below the others.
Steps = Sequence[tuple[float | None, str]]


def expression(text: str) -> str:
    """With the dashboard's variables in the place of the words for them."""
    for word, meaning in _MEANS.items():
        text = text.replace("{" + word, "{" + meaning).replace(f"[{word}]", f"[{meaning}]")
    return text


@dataclass(frozen=True)
class Query:
    """One expression of a panel; `legend` names its lines: `{{topic}}` is the value of a label."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A picture. `kind` is one of Grafana's panels: timeseries, stat, table."""

    title: str
    description: str
    unit: str  # of Grafana: s, bytes, Bps, short, reqps, percentunit
    queries: Sequence[Query]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    steps: Steps = ((None, GREEN),)
    texts: Mapping[float, tuple[str, str]] = field(default_factory=dict)  # what is shown for a value, and its colour
    columns: Mapping[str, str] = field(default_factory=dict)  # of a table: label or refId of a query, and heading
    units: Mapping[str, str] = field(default_factory=dict)  # of a table: heading and unit, where it is not `unit`


@dataclass(frozen=True)
class Row:
    """Panels under one heading, laid out from left to right."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


@dataclass(frozen=True)
class Variable:
    """What the user chooses at the top: a query of `label_values(...)`, or of a kind of data source."""

    name: str
    label: str
    query: str
    is_datasource: bool = False


def dashboard(
    uid: str, title: str, description: str, rows: Sequence[Row], variables: Sequence[Variable]
) -> dict[str, Any]:
    """The dashboard as Grafana imports it, and as its provisioning from files takes it."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["kafka", "postgresql", "pg_kafka"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "annotations": {"list": [_take_overs()]},
        "templating": {"list": [_variable(one) for one in variables]},
        "panels": list(_laid_out(rows)),
    }


def _laid_out(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    number = y = 0
    for row in rows:
        number += 1
        heading: dict[str, Any] = {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": row.collapsed,
            "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
            "panels": [],
        }
        y += 1
        x = height = 0
        panels = []
        for panel in row.panels:
            number += 1
            if x + panel.width > _WIDTH:
                x, y, height = 0, y + height, 0
            panels.append(_panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": panel.height}))
            x, height = x + panel.width, max(height, panel.height)
        y += height
        # A row that is closed holds its panels; those of an open one follow it.
        heading["panels"] = panels if row.collapsed else []
        yield heading
        if not row.collapsed:
            yield from panels


def _panel(panel: Panel, number: int, place: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": dict(place),
        "targets": [
            {
                "refId": _ref(index),
                "datasource": _DATASOURCE,
                "editorMode": "code",
                "expr": expression(query.expression),
                "legendFormat": query.legend or "__auto",
                "range": panel.kind == "timeseries",
                "instant": panel.kind != "timeseries",
                **({"format": "table"} if panel.kind == "table" else {}),
            }
            for index, query in enumerate(panel.queries)
        ],
        **_DRAWN_AS[panel.kind](panel),
    }


def _ref(index: int) -> str:
    return chr(ord("A") + index)


def _defaults(panel: Panel, color: str) -> dict[str, Any]:
    return {
        "unit": panel.unit,
        "color": {"mode": color},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in panel.steps],
        },
        "mappings": [
            {
                "type": "value",
                "options": {
                    f"{value:g}": {"text": text, "color": colour, "index": index}
                    for index, (value, (text, colour)) in enumerate(panel.texts.items())
                },
            }
        ]
        if panel.texts
        else [],
    }


def _graph(panel: Panel) -> dict[str, Any]:
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 20 if panel.stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if len(panel.steps) > 1 else "off"},
    }
    return {
        "fieldConfig": {
            "defaults": {**_defaults(panel, "palette-classic"), "min": 0, "custom": custom},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _figure(panel: Panel) -> dict[str, Any]:
    return {
        "fieldConfig": {"defaults": _defaults(panel, "thresholds"), "overrides": []},
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
        },
    }


def _table(panel: Panel) -> dict[str, Any]:
    """One line for each set of labels; the queries' values side by side."""
    names = {
        **{key: heading for key, heading in panel.columns.items() if len(key) > 1},
        **{f"Value #{key}": heading for key, heading in panel.columns.items() if len(key) == 1},
    }
    if len(panel.queries) == 1:
        names = {name.replace("Value #A", "Value"): heading for name, heading in names.items()}
    return {
        "fieldConfig": {
            "defaults": _defaults(panel, "thresholds"),
            "overrides": [
                {
                    "matcher": {"id": "byName", "options": heading},
                    "properties": [{"id": "unit", "value": unit}],
                }
                for heading, unit in panel.units.items()
            ],
        },
        "options": {"showHeader": True, "cellHeight": "sm"},
        "transformations": [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "indexByName": {name: index for index, name in enumerate(names)},
                    "renameByName": names,
                },
            },
        ],
    }


_DRAWN_AS = {"timeseries": _graph, "stat": _figure, "table": _table}


def _variable(one: Variable) -> dict[str, Any]:
    if one.is_datasource:
        return {
            "name": one.name,
            "label": one.label,
            "type": "datasource",
            "query": one.query,
            "refresh": 1,
            "includeAll": False,
            "multi": False,
            "hide": 0,
        }
    return {
        "name": one.name,
        "label": one.label,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"qryType": 1, "query": one.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,  # when the range of time changes: topics and groups come and go
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }


def _take_overs() -> dict[str, Any]:
    """A line across every picture where another broker begins to lead."""
    return {
        "name": "Take-overs",
        "enable": True,
        "hide": False,
        "iconColor": YELLOW,
        "datasource": _DATASOURCE,
        "target": {
            "refId": "Anno",
            "expr": expression(
                'pg_kafka_state{BROKER,state="leading"} == 1 unless pg_kafka_state{BROKER,state="leading"} offset 1m == 1'
            ),
            "interval": "1m",
            "legendFormat": "",
        },
        "titleFormat": "{{instance}} begins to lead",
    }
