"""DescribeAcls, CreateAcls and DeleteAcls: access control lists, where the broker has an authorizer that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pg_kafka.broker.context import Context
from pg_kafka.broker.permission import CLUSTER_NAME, Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.broker.reply import Reply
from pg_kafka.security.acls import (
    MOST_BYTES,
    OPERATIONS,
    RESOURCE_TYPES,
    Acl,
    AclFilter,
    PatternType,
    Permission,
)
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.create_acls import AclCreation, AclCreationResult, CreateAclsRequest, CreateAclsResponse
from pg_kafka.wire.messages.delete_acls import (
    DeleteAclsFilter,
    DeleteAclsFilterResult,
    DeleteAclsMatchingAcl,
    DeleteAclsRequest,
    DeleteAclsResponse,
)
from pg_kafka.wire.messages.describe_acls import (
    AclDescription,
    DescribeAclsRequest,
    DescribeAclsResource,
    DescribeAclsResponse,
)

# As Kafka says of a broker without an authorizer, in these words. Tools and consoles know by the code that there is none.
_NOT_DESCRIBED = "No Authorizer is configured on the broker"
_NOT_CHANGED = "No Authorizer is configured."

MOST_CHANGES = 10_000
"""Kafka's bound of what one request may create or delete."""


async def describe_acls(ctx: Context, request: DescribeAclsRequest, reply: Reply) -> None:
    """List the access control lists that a filter names.

    Versions  1-3. 1 has prefixed patterns, 2 is flexible, 3 has users as resources.
    Rules     - without an authorizer that reads them, SECURITY_DISABLED whatever is asked for
              - a filter with a 0 for unknown closes the connection, as in Kafka
    """
    if _has_unknown(request.resource_type_filter, request.pattern_type_filter, request):
        reply.close("DescribeAcls with unknown elements", ErrorCode.INVALID_REQUEST)
        return
    ctx.doors.check(Operation.DESCRIBE, ResourceType.CLUSTER)
    book = ctx.doors.acls
    if book is None:
        reply.send(DescribeAclsResponse(error_code=ErrorCode.SECURITY_DISABLED, error_message=_NOT_DESCRIBED))
    else:
        reply.send(DescribeAclsResponse(resources=_by_resource(book.matching(_filter(request)))))


def _by_resource(acls: Iterable[Acl]) -> list[DescribeAclsResource]:
    resources: dict[tuple[int, str, int], list[AclDescription]] = {}
    for acl in sorted(acls):
        entries = resources.setdefault((acl.resource, acl.name, acl.pattern), [])
        entries.append(
            AclDescription(
                principal=acl.principal, host=acl.host, operation=acl.operation, permission_type=acl.permission
            )
        )
    return [
        DescribeAclsResource(resource_type=resource, resource_name=name, pattern_type=pattern, acls=entries)
        for (resource, name, pattern), entries in resources.items()
    ]


def describe_failure(request: DescribeAclsRequest, code: int) -> DescribeAclsResponse:
    return DescribeAclsResponse(error_code=code)


async def create_acls(ctx: Context, request: CreateAclsRequest, reply: Reply) -> None:
    """Create access control lists, each for itself.

    Versions  1-3. As DescribeAcls.
    Rules     - without an authorizer that reads them, each is SECURITY_DISABLED
              - one with a 0 for unknown closes the connection, as in Kafka
              - one that is there already is created again
              - what may not be is INVALID_REQUEST with Kafka's words; texts have a bound here, Kafka's have none
    """
    for one in request.creations:
        if _has_unknown(one.resource_type, one.resource_pattern_type, one):
            reply.close("CreateAcls with unknown elements", ErrorCode.INVALID_REQUEST)
            return
    ctx.doors.check(Operation.ALTER, ResourceType.CLUSTER)
    book = ctx.doors.acls
    if book is None:
        reply.send(_not_created(request, ErrorCode.SECURITY_DISABLED, _NOT_CHANGED))
        return
    results: list[AclCreationResult] = []
    acls: list[Acl] = []
    for one in request.creations:
        try:
            acls.append(_created(one))
            results.append(AclCreationResult())
        except Refused as refused:
            results.append(AclCreationResult(error_code=refused.code, error_message=refused.message))
    if len(acls) > MOST_CHANGES:
        reply.send(
            _not_created(request, ErrorCode.POLICY_VIOLATION, "Unable to perform excessively large batch operation.")
        )
        return
    fresh = [acl for acl in dict.fromkeys(acls) if acl not in book.acls]
    await book.create(acls)
    for acl in fresh:
        _note(ctx, "acl created", acl)
    reply.send(CreateAclsResponse(results=results))


def _created(one: AclCreation) -> Acl:
    """Raises Refused."""
    if one.resource_type == ResourceType.CLUSTER and one.resource_name != CLUSTER_NAME:
        raise _invalid(f"The only valid name for the CLUSTER resource is {CLUSTER_NAME}")
    if not one.resource_name:
        raise _invalid("Invalid empty resource name")
    resource, pattern = _word(RESOURCE_TYPES, one.resource_type), _pattern(one.resource_pattern_type)
    operation, permission = _word(OPERATIONS, one.operation), _permission(one.permission_type)
    if resource in ("UNKNOWN", "ANY"):
        raise _invalid(f"Invalid resourceType {resource}")
    if pattern not in (PatternType.LITERAL, PatternType.PREFIXED):
        raise _invalid(f"Invalid patternType {pattern.name}")
    if operation in ("UNKNOWN", "ANY"):
        raise _invalid(f"Invalid operation {operation}")
    if permission not in (Permission.DENY, Permission.ALLOW):
        raise _invalid(f"Invalid permissionType {permission.name}")
    kind, colon, _ = one.principal.partition(":")
    if not colon or not kind:
        raise _invalid(f"Could not parse principal from `{one.principal}` (it has to be a type, a colon and a name)")
    for what, text in (("resource name", one.resource_name), ("principal", one.principal), ("host", one.host)):
        if len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES[what]:
            raise _invalid(f"The {what} of an ACL may have {MOST_BYTES[what]} bytes.")
        if "\0" in text:
            raise _invalid(f"The {what} of an ACL must not have a NUL.")
    return Acl(one.resource_type, one.resource_name, pattern, one.principal, one.host, one.operation, permission)


def create_failure(request: CreateAclsRequest, code: int) -> CreateAclsResponse:
    return _not_created(request, code)


def _not_created(request: CreateAclsRequest, code: int, message: str | None = None) -> CreateAclsResponse:
    return CreateAclsResponse(
        results=[AclCreationResult(error_code=code, error_message=message)] * len(request.creations)
    )


async def delete_acls(ctx: Context, request: DeleteAclsRequest, reply: Reply) -> None:
    """Delete the access control lists that filters name, and tell which ones.

    Versions  1-3. As DescribeAcls.
    Rules     - without an authorizer that reads them, each filter is SECURITY_DISABLED
              - a filter with a 0 for unknown closes the connection, as in Kafka
              - one with a number that Kafka does not know is INVALID_REQUEST
    """
    for one in request.filters:
        if _has_unknown(one.resource_type_filter, one.pattern_type_filter, one):
            reply.close("DeleteAcls with unknown elements", ErrorCode.INVALID_REQUEST)
            return
    ctx.doors.check(Operation.ALTER, ResourceType.CLUSTER)
    book = ctx.doors.acls
    if book is None:
        reply.send(_not_deleted(request, ErrorCode.SECURITY_DISABLED, _NOT_CHANGED))
        return
    gone: set[Acl] = set()
    results: list[DeleteAclsFilterResult] = []
    for one in request.filters:
        if fault := _fault_of(one):
            results.append(DeleteAclsFilterResult(error_code=ErrorCode.INVALID_REQUEST, error_message=fault))
            continue
        found = book.matching(_filter(one))
        gone.update(found)
        results.append(DeleteAclsFilterResult(matching_acls=[_matching(acl) for acl in sorted(found)]))
    if len(gone) > MOST_CHANGES:
        reply.send(
            _not_deleted(
                request,
                ErrorCode.POLICY_VIOLATION,
                f"Cannot remove more than {MOST_CHANGES} acls in a single delete operation.",
            )
        )
        return
    await book.delete(gone)
    for acl in gone:
        _note(ctx, "acl deleted", acl)
    reply.send(DeleteAclsResponse(filter_results=results))


def _fault_of(one: DeleteAclsFilter) -> str:
    if _word(RESOURCE_TYPES, one.resource_type_filter) == "UNKNOWN" or not _pattern(one.pattern_type_filter):
        return "Unknown patternFilter."
    if _word(OPERATIONS, one.operation) == "UNKNOWN" or not _permission(one.permission_type):
        return "Unknown entryFilter."
    return ""


def _matching(acl: Acl) -> DeleteAclsMatchingAcl:
    return DeleteAclsMatchingAcl(
        resource_type=acl.resource,
        resource_name=acl.name,
        pattern_type=acl.pattern,
        principal=acl.principal,
        host=acl.host,
        operation=acl.operation,
        permission_type=acl.permission,
    )


def delete_failure(request: DeleteAclsRequest, code: int) -> DeleteAclsResponse:
    return _not_deleted(request, code)


def _not_deleted(request: DeleteAclsRequest, code: int, message: str | None = None) -> DeleteAclsResponse:
    result = DeleteAclsFilterResult(error_code=code, error_message=message)
    return DeleteAclsResponse(filter_results=[result] * len(request.filters))


# -- numbers of the protocol -----------------------------------------------------------------------------------------------


def _has_unknown(resource: int, pattern: int, entry: DescribeAclsRequest | DeleteAclsFilter | AclCreation) -> bool:
    return 0 in (resource, pattern, entry.operation, entry.permission_type)


def _word(words: Sequence[str], number: int) -> str:
    return words[number] if 0 <= number < len(words) else words[0]


def _pattern(number: int) -> PatternType:
    try:
        return PatternType(number)
    except ValueError:
        return PatternType.UNKNOWN


def _permission(number: int) -> Permission:
    try:
        return Permission(number)
    except ValueError:
        return Permission.UNKNOWN


def _filter(request: DescribeAclsRequest | DeleteAclsFilter) -> AclFilter:
    return AclFilter(
        request.resource_type_filter,
        request.resource_name_filter,
        _pattern(request.pattern_type_filter),
        request.principal_filter,
        request.host_filter,
        request.operation,
        _permission(request.permission_type),
    )


def _invalid(message: str) -> Refused:
    return Refused(ErrorCode.INVALID_REQUEST, message)


def _note(ctx: Context, event: str, acl: Acl) -> None:
    """Tell the audit, in the words of kafka.note_acls()."""
    what = f"{acl.pattern.name} {RESOURCE_TYPES[acl.resource]} {acl.name}"
    text = f"{acl.principal} {acl.permission.name} {OPERATIONS[acl.operation]} on {what} from {acl.host}"
    ctx.broker.audit.note(event, who=ctx.connection, resource=f"acl {text}")
