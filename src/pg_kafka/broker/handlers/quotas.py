"""DescribeClientQuotas and AlterClientQuotas: how much clients may take (docs/security.md, "Quotas")."""

from __future__ import annotations

from collections.abc import Sequence

from pg_kafka.broker.context import Context
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused, shortened
from pg_kafka.security import quotas
from pg_kafka.security.quotas import CLIENT_ID, DEFAULT, IP, USER, Entity, Match, Table, Unusable
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import alter_client_quotas as altering
from pg_kafka.wire.messages import describe_client_quotas as describing

_EXACT, _DEFAULT, _ANY = 0, 1, 2
_MATCHES = {_EXACT: "MATCH_TYPE_EXACT", _DEFAULT: "MATCH_TYPE_DEFAULT", _ANY: "MATCH_TYPE_SPECIFIED"}
# Java's order of the types in an entity's text.
_IN_MESSAGES = (IP, CLIENT_ID, USER)


async def describe_client_quotas(
    ctx: Context, request: describing.DescribeClientQuotasRequest
) -> describing.DescribeClientQuotasResponse:
    """Tell quotas by whom they are for.

    Versions  0-1. 1 is the flexible one.
    Rules     - each component asks for one type of an entity: a name, the default, or either; none at all is everything
              - a strict filter leaves out entities of which it does not name all types
              - a type twice, an empty one, an address beside a user or a client id, and a match that does not go with its
                type are INVALID_REQUEST; a type that is not user, client-id or ip is UNSUPPORTED_VERSION
    """
    ctx.doors.check(Operation.DESCRIBE_CONFIGS, ResourceType.CLUSTER)
    try:
        matches = _matches(request.components)
    except Refused as refused:
        return describing.DescribeClientQuotasResponse(error_code=refused.code, error_message=refused.message)
    table = ctx.doors.quotas.table
    return describing.DescribeClientQuotasResponse(
        error_message="",  # as in Kafka, not null
        entries=[
            describing.EntryData(
                entity=[describing.EntityData(entity_type=kind, entity_name=name) for kind, name in entity.pairs()],
                # In this order Kafka's tools print them as those of Kafka's brokers.
                values=[
                    describing.ValueData(key=key, value=value)
                    for key, value in sorted(table.entries[entity].items(), reverse=True)
                ],
            )
            async for entity in ctx.broker.turns.each(table.matching(matches, strict=request.strict))
        ],
    )


def describe_failure(
    _request: describing.DescribeClientQuotasRequest, code: int
) -> describing.DescribeClientQuotasResponse:
    return describing.DescribeClientQuotasResponse(error_code=code)


def _matches(components: Sequence[describing.ComponentData]) -> list[Match]:
    """What a filter asks for, in Kafka's words where it cannot be. Raises Refused."""
    found: dict[str, Match] = {}
    for one in components:
        kind = one.entity_type
        if not kind:
            raise Refused(ErrorCode.INVALID_REQUEST, "Invalid empty entity type.")
        if kind in found:
            raise Refused(ErrorCode.INVALID_REQUEST, f"Entity type {kind} cannot appear more than once in the filter.")
        if kind not in (USER, CLIENT_ID, IP):
            raise Refused(ErrorCode.UNSUPPORTED_VERSION, f"Unsupported entity type {kind}")
        match one.match_type:
            case 0 if one.match is None:
                raise Refused(
                    ErrorCode.INVALID_REQUEST, "Request specified MATCH_TYPE_EXACT, but set match string to null."
                )
            case 1 | 2 if one.match is not None:
                name = _MATCHES[one.match_type]
                raise Refused(
                    ErrorCode.INVALID_REQUEST, f"Request specified {name}, but also specified a match string."
                )
            case 0:
                # No entity has an empty name; here it would mean the default.
                found[kind] = Match(kind, one.match or "\0")
            case 1:
                found[kind] = Match(kind, DEFAULT)
            case 2:
                found[kind] = Match(kind, None)
            case unknown:
                raise Refused(ErrorCode.INVALID_REQUEST, f"Unknown match type {unknown}")
    if IP in found and len(found) > 1:
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            "Invalid entity filter component combination. IP filter component should not be used with user or clientId "
            "filter component.",
        )
    return list(found.values())


async def alter_client_quotas(
    ctx: Context, request: altering.AlterClientQuotasRequest
) -> altering.AlterClientQuotasResponse:
    """Set and remove quotas, each entity for itself.

    Versions  0-1. 1 is the flexible one.
    Rules     - all quotas of one entity are changed, or none; an answer without error is stored, and in force here
              - an entity is users, client ids, both, or an address; null in place of a name is the default
              - an unknown type or quota, an empty name, a value that the quota cannot have: INVALID_REQUEST
              - to remove what is not there is no error, whatever its name
              - of an entity that is named twice, or that has a quota twice, the first counts, and the answer is
                INVALID_REQUEST
              - validate_only checks everything and changes nothing
    Not done  - names of hosts in place of addresses: INVALID_REQUEST, as for those that cannot be resolved
              - users and client ids of more than 1000 bytes, or with a NUL: INVALID_REQUEST
    """
    ctx.doors.check(Operation.ALTER_CONFIGS, ResourceType.CLUSTER)
    wanted: dict[tuple[Entity, str], float | None] = {}
    answers: dict[tuple[tuple[str, str | None], ...], tuple[int, str | None]] = {}
    async for entry in ctx.broker.turns.each(request.entries):
        names = {one.entity_type: one.entity_name for one in entry.entity}
        key = tuple(sorted(names.items()))
        keys = [op.key for op in entry.ops]
        if key in answers or len(set(keys)) < len(keys):
            message = f"Ignoring duplicate entity {_as_java(names)}"
            answers[key] = (int(ErrorCode.INVALID_REQUEST), shortened(message))
            continue
        try:
            entity = quotas.entity_of(names.items())
            for op in entry.ops:
                if not op.remove:
                    quotas.check(entity, op.key, op.value)
        except Unusable as unusable:
            answers[key] = (int(ErrorCode.INVALID_REQUEST), shortened(str(unusable)))
            continue
        answers[key] = (int(ErrorCode.NONE), None)
        wanted.update({(entity, op.key): None if op.remove else op.value for op in entry.ops})
    if not request.validate_only:
        before = ctx.doors.quotas.table
        await ctx.doors.quotas.change(wanted)
        _note(ctx, before, wanted)
    return altering.AlterClientQuotasResponse(
        entries=[
            altering.ResponseEntryData(
                error_code=code,
                error_message=message,
                entity=[altering.ResponseEntityData(entity_type=kind, entity_name=name) for kind, name in key],
            )
            for key, (code, message) in answers.items()
        ]
    )


def alter_failure(request: altering.AlterClientQuotasRequest, code: int) -> altering.AlterClientQuotasResponse:
    return altering.AlterClientQuotasResponse(
        entries=[
            altering.ResponseEntryData(
                error_code=code,
                entity=[
                    altering.ResponseEntityData(entity_type=one.entity_type, entity_name=one.entity_name)
                    for one in entry.entity
                ],
            )
            for entry in request.entries
        ]
    )


def _note(ctx: Context, before: Table, changes: dict[tuple[Entity, str], float | None]) -> None:
    audit, who = ctx.broker.audit, ctx.connection
    for (entity, name), value in changes.items():
        was = before.entries.get(entity, {}).get(name)
        resource = f"quota {entity}"
        if value is None:
            if was is not None:
                audit.note("quota deleted", who=who, resource=resource, detail=name)
        elif was is None:
            audit.note("quota created", who=who, resource=resource, detail=f"{name} = {value:g}")
        elif was != value:
            audit.note("quota changed", who=who, resource=resource, detail=f"{name} = {value:g}")


def _as_java(names: dict[str, str | None]) -> str:
    """An entity as Kafka's messages have it."""
    ordered = sorted(names.items(), key=lambda one: _IN_MESSAGES.index(one[0]) if one[0] in _IN_MESSAGES else 3)
    shown = ", ".join(f"{kind}={'null' if name is None else name}" for kind, name in ordered)
    return f"ClientQuotaEntity(entries={{{shown}}})"
