"""Make `pg_kafka.wire.messages` from the message schemas in the jar of Kafka's clients.

A schema is a JSON file for each request and each response: `common/message/FetchRequest.json` and so on. Here they
become one module for each API, with one class for each message and each struct in it. Only names, types and numbers are
taken over.

    python scripts/generate_messages.py                 # rewrite the files
    python scripts/generate_messages.py --check         # say which differ, exit code 1 if any does
    python scripts/generate_messages.py --jar PATH      # with this jar; otherwise Maven gets the one in kafka-schemas/

A struct keeps Kafka's name. Where the request and the response of an API both have a struct of one name, they become
`Request<Name>` and `Response<Name>`. Each field is named as in Kafka, in snake case.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
MESSAGES = ROOT / "src" / "pg_kafka" / "wire" / "messages"
SCHEMA_FOLDER = "common/message/"
POM_FOLDER = ROOT / "scripts" / "kafka-schemas"
LINE_LENGTH = 120
NEVER = 32767  # the first flexible version of an API that has none

# The APIs that get classes: those of broker/dispatch.py, and those that are to be served next.
APIS = """
    Produce Fetch ListOffsets Metadata OffsetCommit OffsetFetch FindCoordinator JoinGroup Heartbeat LeaveGroup SyncGroup
    DescribeGroups ListGroups SaslHandshake ApiVersions CreateTopics DeleteTopics DeleteRecords InitProducerId
    OffsetForLeaderEpoch AddPartitionsToTxn AddOffsetsToTxn EndTxn WriteTxnMarkers TxnOffsetCommit DescribeAcls
    CreateAcls DeleteAcls DescribeConfigs AlterConfigs AlterReplicaLogDirs DescribeLogDirs SaslAuthenticate
    CreatePartitions DeleteGroups ElectLeaders IncrementalAlterConfigs AlterPartitionReassignments
    ListPartitionReassignments OffsetDelete DescribeClientQuotas AlterClientQuotas DescribeUserScramCredentials
    AlterUserScramCredentials DescribeQuorum UpdateFeatures DescribeCluster DescribeProducers UnregisterBroker
    DescribeTransactions ListTransactions ConsumerGroupHeartbeat ConsumerGroupDescribe GetTelemetrySubscriptions
    PushTelemetry ListConfigResources DescribeTopicPartitions
""".split()

PYTHON_TYPES = {
    "bool": "bool",
    "int8": "int",
    "int16": "int",
    "uint16": "int",
    "int32": "int",
    "uint32": "int",
    "int64": "int",
    "float64": "float",
    "string": "str",
    "bytes": "bytes",
    "uuid": "UUID",
    "records": "bytes | memoryview",  # of a request; a response takes several pieces
}
ZEROS = {"bool": "False", "float64": "0.0", "string": '""', "bytes": 'b""', "records": 'b""', "uuid": "ZERO_UUID"}

# What a schema may say. The ones in the second line change nothing on the wire.
MESSAGE_KEYS = {"apiKey", "type", "name", "validVersions", "flexibleVersions", "fields", "commonStructs"} | {
    *("listeners", "latestVersionUnstable"),
}
FIELD_KEYS = {"name", "type", "versions", "nullableVersions", "taggedVersions", "tag", "default", "fields"} | {
    *("about", "entityType", "ignorable", "mapKey", "zeroCopy"),
}

# Names that a generated module imports or that its classes inherit from.
TAKEN = {"Message", "Records", "Sequence", "UUID"}


@dataclasses.dataclass(frozen=True)
class Versions:
    """A range, inclusive; `last` is below `first` when it is empty."""

    first: int
    last: int

    @classmethod
    def of(cls, text: str) -> Versions:
        """Kafka's notation: `none`, `3`, `3-5`, `3+`."""
        if text == "none":
            return cls(0, -1)
        if text.endswith("+"):
            return cls(int(text[:-1]), NEVER)
        first, _, last = text.partition("-")
        return cls(int(first), int(last or first))

    def __bool__(self) -> bool:
        return self.first <= self.last

    def __and__(self, other: Versions) -> Versions:
        return Versions(max(self.first, other.first), min(self.last, other.last))

    def joined(self, other: Versions) -> Versions:
        """The range of both, which must touch each other."""
        if self.last + 1 < other.first or other.last + 1 < self.first:
            raise ValueError(f"a gap between the versions {self} and {other}")
        return Versions(min(self.first, other.first), max(self.last, other.last))

    def text(self, newest: int) -> str:
        if self.last == newest:
            return f"{self.first}+"
        return f"{self.first}-{self.last}" if self.last > self.first else str(self.first)

    def words(self) -> str:
        return f"Versions {self.first} to {self.last}" if self.last > self.first else f"Version {self.first}"


@dataclasses.dataclass(frozen=True)
class Field:
    name: str
    kind: str  # a type on the wire, or the name of a struct
    is_struct: bool
    is_array: bool
    versions: Versions
    nullable: Versions
    tag: int | None
    default: object  # as in the schema; None when it names none


class Schema:
    """One message: its versions and its structs, without the fields and structs that no valid version has."""

    def __init__(self, text: str) -> None:
        self._json: dict[str, Any] = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
        self.name: str = self._json["name"]
        self.kind: str = self._json["type"]
        self.api = self.name.removesuffix(self.kind.capitalize())
        self.key: int = self._json["apiKey"]
        self.versions = Versions.of(self._json["validVersions"])
        self.is_last_stable = not self._json.get("latestVersionUnstable", False)
        flexible = Versions.of(self._json.get("flexibleVersions", "none")) & self.versions
        self.first_flexible = flexible.first if flexible else NEVER
        self._described: dict[str, list[dict[str, Any]]] = {}
        self._used: dict[str, Versions] = {}

    @functools.cached_property
    def structs(self) -> dict[str, list[Field]]:
        """Name -> fields. The message itself is the last one, and each struct comes before those that have it."""
        _refuse_unknown(self.name, self._json, MESSAGE_KEYS)
        self._described[self.name] = self._json["fields"]
        for struct in self._json.get("commonStructs", ()):
            self._described[struct["name"]] = struct["fields"]
        for fields in list(self._described.values()):
            self._describe(fields)
        self._use(self.name, self.versions)
        return {name: list(self._fields(name)) for name in self._in_order(self.name)}

    def _describe(self, fields: list[dict[str, Any]]) -> None:
        """Find the structs that are written where they are used."""
        for entry in fields:
            if "fields" in entry:
                name = _item_type(entry)
                if name in self._described:
                    raise ValueError(f"{self.name}: two structs {name}")
                self._described[name] = entry["fields"]
                self._describe(entry["fields"])

    def _use(self, struct: str, versions: Versions, within: tuple[str, ...] = ()) -> None:
        """Note that a struct is there in these versions, and so are those within it."""
        if struct in within:
            raise ValueError(f"{self.name}: {struct} is within itself")
        self._used[struct] = self._used[struct].joined(versions) if struct in self._used else versions
        for entry in self._described[struct]:
            inner = Versions.of(entry["versions"]) & versions
            if inner and _item_type(entry) in self._described:
                self._use(_item_type(entry), inner, (*within, struct))

    def _fields(self, struct: str) -> Iterator[Field]:
        for entry in self._described[struct]:
            field = self._field(f"{self.name}: {struct}.{entry['name']}", entry, self._used[struct])
            if field.versions:
                yield field

    def _field(self, where: str, entry: dict[str, Any], within: Versions) -> Field:
        _refuse_unknown(where, entry, FIELD_KEYS)
        versions = Versions.of(entry["versions"]) & within
        nullable = Versions.of(entry.get("nullableVersions", "none")) & versions
        tagged = Versions.of(entry.get("taggedVersions", "none")) & versions
        if tagged and tagged != versions:
            raise ValueError(f"{where} is tagged in some of its versions only")
        kind = _item_type(entry)
        if kind not in PYTHON_TYPES and kind not in self._described:
            raise ValueError(f"{where} has the type {kind}")
        return Field(
            name=snake_case(entry["name"]),
            kind=kind,
            is_struct=kind in self._described,
            is_array=entry["type"].startswith("[]"),
            versions=versions,
            nullable=nullable,
            tag=entry["tag"] if tagged else None,
            default=entry.get("default"),
        )

    def _in_order(self, struct: str) -> list[str]:
        """The structs that are in use: each before those that have it."""
        names: list[str] = []
        for field in self._fields(struct):
            if field.is_struct:
                names += [name for name in self._in_order(field.kind) if name not in names]
        return [*names, struct]


def _refuse_unknown(where: str, entry: dict[str, Any], known: set[str]) -> None:
    if unknown := entry.keys() - known:
        raise ValueError(f"{where} has {', '.join(sorted(unknown))}, which may change its form")


def _item_type(entry: dict[str, Any]) -> str:
    name: str = entry["type"]
    return name.removeprefix("[]")


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class ModuleText:
    """The module of one API."""

    def __init__(self, request: Schema, response: Schema) -> None:
        self._schemas = (request, response)
        self._clashes = request.structs.keys() & response.structs.keys()

    def text(self) -> str:
        body = "\n".join(line for schema in self._schemas for line in self._classes(schema))
        names = {
            "ZERO_UUID": "ZERO_UUID" in body,
            "Message": True,
            "Records": ": Records" in body,
            "array": "= array(" in body,
            "field": "= field(" in body,
            "shared": "shared(" in body,
        }
        lines = [
            f'"""{self._schemas[0].api}: request and response. Generated by scripts/generate_messages.py."""',
            "",
            "from __future__ import annotations",
            "",
        ]
        lines += ["from collections.abc import Sequence"] if "Sequence[" in body else []
        lines += ["from uuid import UUID"] if re.search(r"\bUUID\b", body) else []
        lines += [""] if lines[-1] else []
        lines += [f"from pg_kafka.wire.message import {', '.join(name for name, is_used in names.items() if is_used)}"]
        return "\n".join(lines) + "\n" + body + "\n"

    def _classes(self, schema: Schema) -> Iterator[str]:
        for name, fields in schema.structs.items():
            yield from ("", "", f"class {self._class_name(schema, name)}(Message):")
            if name == schema.name:
                unstable = "" if schema.is_last_stable else f"; {schema.versions.last} is not stable"
                yield f'    """{schema.versions.words()}{unstable}."""'
                yield from [""] if fields else []
            elif not fields:
                yield '    """Empty."""'
            for field in fields:
                yield from self._field_lines(schema, field)

    def _class_name(self, schema: Schema, struct: str) -> str:
        name = f"{schema.kind.capitalize()}{struct}" if struct in self._clashes else struct
        if name in TAKEN or any(name in other.structs for other in self._schemas if name != struct):
            raise ValueError(f"{schema.name}: the name {name} is taken")
        return name

    def _field_lines(self, schema: Schema, field: Field) -> list[str]:
        newest = schema.versions.last
        kind = self._class_name(schema, field.kind) if field.is_struct else f'"{field.kind}"'
        arguments = [kind, f'"{field.versions.text(newest)}"', f"default={self._default(schema, field)}"]
        if field.nullable:
            arguments.append(f'nullable="{field.nullable.text(newest)}"')
        if field.tag is not None:
            arguments.append(f"tag={field.tag}")
        function = "array" if field.is_array else "field"
        start = f"    {field.name}: {self._annotation(schema, field)} = {function}("
        line = f"{start}{', '.join(arguments)})"
        if len(line) <= LINE_LENGTH:
            return [line]
        return [start, f"        {', '.join(arguments)}", "    )"]

    def _annotation(self, schema: Schema, field: Field) -> str:
        text = self._class_name(schema, field.kind) if field.is_struct else PYTHON_TYPES[field.kind]
        if field.kind == "records" and schema.kind == "response":
            text = "Records"
        if field.is_array:
            text = f"Sequence[{text}]"
        return f"{text} | None" if field.nullable else text

    def _default(self, schema: Schema, field: Field) -> str:
        """The default as Python text. A field that may always be null and that names no default has None."""
        if field.default == "null" or (
            field.default is None and field.nullable == field.versions and field.tag is None
        ):
            if not field.nullable:
                raise ValueError(f"{schema.name}: {field.name} has the default null and is never null")
            return "None"
        if field.default is not None and not field.is_array and not field.is_struct:
            return constant(field.kind, field.default)
        if field.default is not None:
            raise ValueError(f"{schema.name}: {field.name} has the default {field.default}")
        if field.is_array:
            return "()"
        if field.is_struct:
            return f"shared({self._class_name(schema, field.kind)}())"
        return ZEROS.get(field.kind, "0")


def constant(kind: str, value: object) -> str:
    """A default of a schema, JSON's own or text, as Python text."""
    match kind:
        case "bool":
            return {"true": "True", "false": "False"}[str(value).lower()]
        case "string":
            return f'"{value}"'
        case "float64":
            return str(float(str(value)))
        case "bytes" | "records" | "uuid":
            raise ValueError(f"a default of type {kind}: {value}")
    return str(int(str(value), 0))


def index_text(schemas: dict[str, Schema]) -> str:
    requests = sorted(
        (schema for schema in schemas.values() if schema.kind == "request"), key=lambda schema: schema.key
    )
    lines = [
        '"""All message classes, a module for each API, with its request and its response.',
        "",
        "Generated by scripts/generate_messages.py.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import Final, NamedTuple",
        "",
        "",
        "class ApiSchema(NamedTuple):",
        '    """`name` is that of the module; `first_flexible` is 32767 when no version is flexible."""',
        "",
        "    name: str",
        "    first_version: int",
        "    last_version: int",
        "    last_stable: int",
        "    first_flexible: int",
        "",
        "",
        "# The APIs that have classes.",
        "API_SCHEMAS: Final[dict[int, ApiSchema]] = {",
    ]
    for schema in requests:
        if schema.api in APIS:
            first, last = schema.versions.first, schema.versions.last
            stable = last if schema.is_last_stable else last - 1
            name = snake_case(schema.api)
            lines.append(f'    {schema.key}: ApiSchema("{name}", {first}, {last}, {stable}, {schema.first_flexible}),')
    lines += ["}", "", "# Kafka's names of all APIs.", "API_NAMES: Final[dict[int, str]] = {"]
    lines += [f'    {schema.key}: "{schema.api}",' for schema in requests]
    return "\n".join([*lines, "}", ""])


def read_schemas(jar: Path) -> dict[str, Schema]:
    """Name -> schema of all requests and responses."""
    schemas: dict[str, Schema] = {}
    with ZipFile(jar) as archive:
        for path in archive.namelist():
            if path.startswith(SCHEMA_FOLDER) and path.endswith(("Request.json", "Response.json")):
                schema = Schema(archive.read(path).decode())
                schemas[schema.name] = schema
    if not schemas:
        raise ValueError(f"{jar} has no {SCHEMA_FOLDER}*.json")
    return schemas


def generate(jar: Path) -> dict[Path, str]:
    """Path -> text of every generated file."""
    schemas = read_schemas(jar)
    files = {MESSAGES / "__init__.py": index_text(schemas)}
    for api in APIS:
        request, response = schemas[f"{api}Request"], schemas[f"{api}Response"]
        if (request.key, request.versions) != (response.key, response.versions):
            raise ValueError(f"{api}: request and response differ in their versions")
        if request.first_flexible != response.first_flexible:
            raise ValueError(f"{api}: request and response differ in the first flexible version")
        files[MESSAGES / f"{snake_case(api)}.py"] = ModuleText(request, response).text()
    return files


def published_jar() -> Path:
    """The jar that kafka-schemas/pom.xml names, by Maven."""
    sys.path.insert(0, str(ROOT))
    from tests.kafka_reference import class_path

    jars = [Path(jar) for jar in class_path(POM_FOLDER).split(":")]
    return next(jar for jar in jars if jar.name.startswith("kafka-clients-"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the message classes.")
    parser.add_argument("--check", action="store_true", help="write nothing, report differences")
    parser.add_argument("--jar", type=Path, help="the jar of Kafka's clients")
    arguments = parser.parse_args()
    files = generate(arguments.jar or published_jar())
    stale = set(MESSAGES.glob("*.py")) - set(files)
    changed = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    for path in sorted([*changed, *stale]):
        print(path.relative_to(ROOT))
    if arguments.check:
        return 1 if changed or stale else 0
    for path in changed:
        path.write_text(files[path])
    for path in stale:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
