"""Make `pg_kafka.wire.messages` and `pg_kafka.wire.error_codes` from the message schemas in the `kio` package.

kio has one dataclass for each message, struct and version. Here they become one class for each message and struct: the
union of the fields of all versions, each with the versions that have it. Only names, types and numbers are taken over.

    python scripts/generate_messages.py            # rewrite the files
    python scripts/generate_messages.py --check    # say which differ, exit code 1 if any does
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib
import pkgutil
import sys
import types
import typing
import uuid
from collections.abc import Iterator
from pathlib import Path

from kio.schema.errors import ErrorCode
from kio.schema.index import api_key_map
from kio.serial._introspect import classify_field

WIRE = Path(__file__).resolve().parent.parent / "src" / "pg_kafka" / "wire"
LINE_LENGTH = 120

# kio's type -> type on the wire. A name without its unit gets it back: kio hides the milliseconds in the type.
WIRE_TYPES = {
    "error_code": "int16",
    "timedelta_i32": "int32",
    "timedelta_i64": "int64",
    "datetime_i64": "int64",
}
MILLISECONDS = {"timedelta_i32", "timedelta_i64", "datetime_i64"}
PYTHON_TYPES = {
    "bool": "bool",
    "int8": "int",
    "int16": "int",
    "uint16": "int",
    "int32": "int",
    "int64": "int",
    "float64": "float",
    "string": "str",
    "bytes": "bytes",
    "uuid": "UUID",
}
ZEROS: dict[str, object] = {
    "bool": False,
    "float64": 0.0,
    "string": "",
    "bytes": b"",
    "records": b"",
    "uuid": uuid.UUID(int=0),
}


@dataclasses.dataclass
class MergedField:
    name: str
    kind: str  # a type on the wire, or the name of a struct
    is_struct: bool
    is_array: bool
    tag: int | None
    default: str | None  # as Python text; None when the schema names none
    versions: list[int] = dataclasses.field(default_factory=list)
    nullable: list[int] = dataclasses.field(default_factory=list)

    def same_type(self, other: MergedField) -> bool:
        mine = (self.kind, self.is_array, self.tag, self.default)
        return mine == (other.kind, other.is_array, other.tag, other.default)


def field_name(field: dataclasses.Field[typing.Any]) -> str:
    """The name in our classes of a field of kio's."""
    return f"{field.name}_ms" if field.metadata.get("kafka_type") in MILLISECONDS else field.name


def is_nullable(field: dataclasses.Field[typing.Any]) -> bool:
    """Whether null can be sent. kio has None for the zero uuid and for the time -1 as well."""
    if field.metadata.get("kafka_type") == "datetime_i64":
        return False
    if field.metadata.get("kafka_type") == "uuid" and typing.get_origin(field.type) is types.UnionType:
        return any(typing.get_origin(part) is tuple for part in typing.get_args(field.type))
    return typing.get_origin(field.type) is types.UnionType


def read_field(field: dataclasses.Field[typing.Any]) -> MergedField:
    kind_of_field = classify_field(field)
    kafka_type = field.metadata.get("kafka_type")
    is_struct = dataclasses.is_dataclass(kind_of_field.type_)
    return MergedField(
        name=field_name(field),
        kind=kind_of_field.type_.__name__ if is_struct else WIRE_TYPES.get(kafka_type, kafka_type),
        is_struct=is_struct,
        is_array=kind_of_field.is_array,
        tag=field.metadata.get("tag"),
        default=None
        if field.default is dataclasses.MISSING
        else constant_text(field.default, None if is_nullable(field) else kafka_type),
    )


def structs_of(module: types.ModuleType) -> Iterator[type]:
    """The dataclasses defined in a module, in the order of its text: a struct comes before its user."""
    for value in vars(module).values():
        if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__module__ == module.__name__:
            yield value


def merge_order(orders: list[list[str]]) -> list[str]:
    """One order that contains all the given ones."""
    merged: list[str] = []
    pending = [list(order) for order in orders]
    while any(pending):
        for order in pending:
            if order and not any(order[0] in other[1:] for other in pending):
                first = order[0]
                break
        else:
            raise ValueError(f"no common order of {pending}")
        merged.append(first)
        pending = [order[1:] if order and order[0] == first else order for order in pending]
    return merged


def merged_structs(api: str, kind: str, versions: list[int]) -> dict[str, list[MergedField]]:
    """Struct name -> its fields over all versions; the message itself is the last one."""
    structs: dict[str, dict[str, MergedField]] = {}
    field_orders: dict[str, list[list[str]]] = {}
    struct_orders: list[list[str]] = []
    for version in versions:
        classes = list(structs_of(importlib.import_module(f"kio.schema.{api}.v{version}.{kind}")))
        struct_orders.append([cls.__name__ for cls in classes])
        for cls in classes:
            fields = structs.setdefault(cls.__name__, {})
            field_orders.setdefault(cls.__name__, []).append([field_name(field) for field in dataclasses.fields(cls)])
            for field in dataclasses.fields(cls):
                found = read_field(field)
                merged = fields.setdefault(found.name, found)
                if not merged.same_type(found):
                    raise ValueError(f"{api} {kind}: {cls.__name__}.{found.name} changes its type in v{version}")
                merged.versions.append(version)
                if is_nullable(field):
                    merged.nullable.append(version)
    names = merge_order(struct_orders)
    return {name: [structs[name][key] for key in merge_order(field_orders[name])] for name in names}


def version_range(found: list[int], newest: int) -> str:
    if found != list(range(found[0], found[-1] + 1)):
        raise ValueError(f"versions with a gap: {found}")
    if found[-1] == newest:
        return f"{found[0]}+"
    return f"{found[0]}-{found[-1]}" if len(found) > 1 else str(found[0])


def default_text(field: MergedField) -> str:
    if field.default is not None:
        return field.default
    if field.nullable == field.versions:
        return "None"
    if field.is_array:
        return "()"
    if field.is_struct:
        return f"shared({field.kind}())"
    return constant_text(ZEROS.get(field.kind, 0))


def constant_text(value: object, kafka_type: str | None = None) -> str:
    """A value of kio's as Python text."""
    if value is None and kafka_type == "datetime_i64":
        return "-1"
    if dataclasses.is_dataclass(value):
        return struct_text(value)
    if isinstance(value, datetime.timedelta):
        return str(round(value / datetime.timedelta(milliseconds=1)))
    if value == uuid.UUID(int=0) or (value is None and kafka_type == "uuid"):
        return "ZERO_UUID"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    return repr(value).replace("'", '"')


def struct_text(value: typing.Any) -> str:
    """A default struct: only what differs from the defaults of its own fields is written out."""
    arguments = [
        f"{field_name(field)}={constant_text(getattr(value, field.name), field.metadata.get('kafka_type'))}"
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    ]
    return f"shared({type(value).__name__}({', '.join(arguments)}))"


def annotation(field: MergedField, kind: str) -> str:
    if field.kind == "records":
        text = "Records" if kind == "response" else "bytes | memoryview"
    else:
        text = field.kind if field.is_struct else PYTHON_TYPES[field.kind]
        if field.is_array:
            text = f"Sequence[{text}]"
    return f"{text} | None" if field.nullable else text


def field_lines(field: MergedField, kind: str, newest: int) -> list[str]:
    arguments = [field.kind if field.is_struct else f'"{field.kind}"', f'"{version_range(field.versions, newest)}"']
    arguments.append(f"default={default_text(field)}")
    if field.nullable:
        arguments.append(f'nullable="{version_range(field.nullable, newest)}"')
    if field.tag is not None:
        arguments.append(f"tag={field.tag}")
    start = f"    {field.name}: {annotation(field, kind)} = {'array' if field.is_array else 'field'}("
    line = f"{start}{', '.join(arguments)})"
    if len(line) <= LINE_LENGTH:
        return [line]
    return [start, f"        {', '.join(arguments)}", "    )"]


def camel(api: str) -> str:
    return "".join(part.capitalize() for part in api.split("_"))


def message_module(api: str, kind: str, versions: list[int]) -> str:
    structs = merged_structs(api, kind, versions)
    body: list[str] = []
    for name, fields in structs.items():
        body += ["", "", f"class {name}(Message):"]
        if name == list(structs)[-1]:
            span = f"{versions[0]} to {versions[-1]}" if len(versions) > 1 else str(versions[0])
            body.append(f'    """Versions {span}."""' if len(versions) > 1 else f'    """Version {span}."""')
            body += [""] if fields else []
        elif not fields:
            body.append('    """Empty."""')
        for field in fields:
            body += field_lines(field, kind, versions[-1])
    text = "\n".join(body)
    names = [
        name
        for name, mark in (
            ("ZERO_UUID", "ZERO_UUID"),
            ("Message", ""),
            ("Records", ": Records"),
            ("array", "= array("),
            ("field", "= field("),
            ("shared", "shared("),
        )
        if mark in text
    ]
    lines = [
        f'"""{camel(api)}{kind.capitalize()}. Generated by scripts/generate_messages.py."""',
        "",
        "from __future__ import annotations",
        "",
    ]
    lines += ["from collections.abc import Sequence"] if "Sequence[" in text else []
    lines += ["from uuid import UUID"] if ": UUID" in text or "[UUID" in text else []
    lines += [""] if lines[-1] else []
    lines += [f"from pg_kafka.wire.message import {', '.join(names)}"]
    return "\n".join(lines) + "\n" + text + "\n"


def first_flexible(api: str, kind: str, versions: list[int]) -> int:
    flexible = []
    for version in versions:
        top = list(structs_of(importlib.import_module(f"kio.schema.{api}.v{version}.{kind}")))[-1]
        if top.__flexible__:
            flexible.append(version)
    if flexible and flexible != list(range(flexible[0], versions[-1] + 1)):
        raise ValueError(f"{api} {kind}: flexible versions {flexible}")
    return flexible[0] if flexible else 32767


def index_module(apis: dict[int, tuple[str, list[int]]]) -> str:
    lines = [
        '"""All message classes of the protocol, a module for each request and each response.',
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
        '    """`name` is the stem of the modules; `first_flexible` is 32767 when no version is flexible."""',
        "",
        "    name: str",
        "    first_version: int",
        "    last_version: int",
        "    first_flexible: int",
        "",
        "",
        "API_SCHEMAS: Final[dict[int, ApiSchema]] = {",
    ]
    for key, (api, versions) in apis.items():
        flexible = first_flexible(api, "request", versions)
        if flexible != first_flexible(api, "response", versions):
            raise ValueError(f"{api}: request and response differ in the first flexible version")
        lines.append(f'    {key}: ApiSchema("{api}", {versions[0]}, {versions[-1]}, {flexible}),')
    return "\n".join([*lines, "}", ""])


def error_codes_module() -> str:
    lines = [
        '"""Kafka\'s error codes. Generated by scripts/generate_messages.py."""',
        "",
        "from __future__ import annotations",
        "",
        "from enum import IntEnum",
        "",
        "",
        "class ErrorCode(IntEnum):",
        '    """Their names and numbers."""',
        "",
    ]
    lines += [f"    {code.name.upper()} = {int(code)}" for code in sorted(ErrorCode)]
    return "\n".join([*lines, ""])


def generate() -> dict[Path, str]:
    """Path -> text of every generated file."""
    apis: dict[int, tuple[str, list[int]]] = {}
    files = {WIRE / "error_codes.py": error_codes_module()}
    for key, api in sorted(api_key_map.items()):
        package = importlib.import_module(f"kio.schema.{api}")
        apis[key] = api, sorted(int(found.name.removeprefix("v")) for found in pkgutil.iter_modules(package.__path__))
        for kind in ("request", "response"):
            files[WIRE / "messages" / f"{api}_{kind}.py"] = message_module(api, kind, apis[key][1])
    files[WIRE / "messages" / "__init__.py"] = index_module(apis)
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the message classes.")
    parser.add_argument("--check", action="store_true", help="write nothing, report differences")
    check = parser.parse_args().check
    files = generate()
    stale = set((WIRE / "messages").glob("*.py")) - set(files)
    changed = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    for path in sorted([*changed, *stale]):
        print(path.relative_to(WIRE))
    if check:
        return 1 if changed or stale else 0
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    for path in stale:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
