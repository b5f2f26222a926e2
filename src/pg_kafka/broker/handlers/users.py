"""DescribeUserScramCredentials and AlterUserScramCredentials (KIP-554): users who log in by SASL."""

from __future__ import annotations

from collections import Counter

from pg_kafka.broker.context import Context
from pg_kafka.broker.doors import Entry, Removal
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused, shortened
from pg_kafka.security import scram
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    AlterUserScramCredentialsResponse,
    AlterUserScramCredentialsResult,
    ScramCredentialDeletion,
    ScramCredentialUpsertion,
)
from pg_kafka.wire.messages.describe_user_scram_credentials import (
    CredentialInfo,
    DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse,
    DescribeUserScramCredentialsResult,
)

MAX_NAME_CHARACTERS = 255
MAX_SALT_BYTES = 1024

_BY_NUMBER = {mechanism.number: mechanism for mechanism in scram.MECHANISMS.values()}
_TWICE = "A user credential cannot be altered twice in the same request"
_NOT_THERE = "Attempt to delete a user credential that does not exist"


async def describe_users(
    ctx: Context, request: DescribeUserScramCredentialsRequest
) -> DescribeUserScramCredentialsResponse:
    """Tell by which mechanisms users may log in, and their iterations.

    Versions  0.
    Rules     - no users named, or none: all
              - a user named twice is DUPLICATE_RESOURCE, one that is not there RESOURCE_NOT_FOUND
    """
    ctx.doors.check(Operation.DESCRIBE, ResourceType.CLUSTER)
    names = [user.name for user in request.users or ()]
    found = await ctx.doors.users.describe(sorted({name for name in names if "\0" not in name}) if names else None)
    results = []
    for name, times in Counter(names or sorted(found)).items():
        result = DescribeUserScramCredentialsResult(user=name, error_message="")
        if times > 1:
            result.error_code = ErrorCode.DUPLICATE_RESOURCE
            result.error_message = shortened(
                f"Cannot describe SCRAM credentials for the same user twice in a single request: {name}"
            )
        elif name not in found:
            result.error_code = ErrorCode.RESOURCE_NOT_FOUND
            result.error_message = shortened(f"Attempt to describe a user credential that does not exist: {name}")
        else:
            result.credential_infos = [
                CredentialInfo(mechanism=mechanism.number, iterations=iterations)
                for mechanism, iterations in sorted(found[name].items(), key=lambda item: item[0].number)
            ]
        results.append(result)
    # Apache Kafka has no message here, and sends an empty one.
    return DescribeUserScramCredentialsResponse(error_message="", results=results)


def describe_failure(request: DescribeUserScramCredentialsRequest, code: int) -> DescribeUserScramCredentialsResponse:
    """With a result for each user that is asked for, which in Kafka's answer has no name."""
    result = DescribeUserScramCredentialsResult(error_code=code)
    return DescribeUserScramCredentialsResponse(error_code=code, results=[result] * len(request.users or ()))


async def alter_users(ctx: Context, request: AlterUserScramCredentialsRequest) -> AlterUserScramCredentialsResponse:
    """Set and remove what is stored of users' passwords.

    Versions  0.
    Rules     - each user answers for itself; one named twice, for whatever, is DUPLICATE_RESOURCE
              - 4096 to 16384 iterations, else UNACCEPTABLE_CREDENTIAL, as for a name that is empty; an unknown mechanism
                is UNSUPPORTED_SASL_MECHANISM; what is removed and not there, RESOURCE_NOT_FOUND
              - the client sends the salted password; stored are the keys that follow from it
              - connections that logged in by what is changed are closed within two seconds (Kafka leaves them open)
              - names of more than 255 characters, or with NUL, and salts of more than 1024 bytes are
                UNACCEPTABLE_CREDENTIAL as well
    """
    ctx.doors.check_controller()
    ctx.doors.check(Operation.ALTER, ResourceType.CLUSTER)
    removals: dict[str, Removal] = {}
    entries: dict[str, Entry] = {}
    refused: dict[str, Refused] = {}
    for one in _changes(request):
        name = one.name
        if name in refused:
            continue
        try:
            if removals.pop(name, None) or entries.pop(name, None):
                raise Refused(ErrorCode.DUPLICATE_RESOURCE, _TWICE)
            mechanism = _checked(name, one.mechanism)
            if isinstance(one, ScramCredentialUpsertion):
                entries[name] = Entry(name, mechanism, _keys(one, mechanism))
            else:
                removals[name] = Removal(name, mechanism)
        except Refused as refusal:
            refused[name] = refusal
    if removals or entries:
        gone = await ctx.doors.users.alter(list(removals.values()), list(entries.values()))
        refused |= {name: Refused(ErrorCode.RESOURCE_NOT_FOUND, _NOT_THERE) for name in removals if name not in gone}
    results = []
    for name in (*removals, *entries, *refused.keys() - removals.keys()):
        failure = refused.get(name)
        results.append(
            AlterUserScramCredentialsResult(
                user=name,
                error_code=ErrorCode.NONE if failure is None else failure.code,
                error_message=None if failure is None else failure.message,
            )
        )
        if failure is None:
            detail = f"{removals[name].mechanism.name} removed" if name in removals else entries[name].mechanism.name
            ctx.broker.audit.note("user changed", who=ctx.connection, resource=f"user {name}", detail=detail)
    return AlterUserScramCredentialsResponse(results=results)


def alter_failure(request: AlterUserScramCredentialsRequest, code: int) -> AlterUserScramCredentialsResponse:
    names = dict.fromkeys(one.name for one in _changes(request))
    return AlterUserScramCredentialsResponse(
        results=[AlterUserScramCredentialsResult(user=name, error_code=code) for name in names]
    )


def _changes(request: AlterUserScramCredentialsRequest) -> list[ScramCredentialDeletion | ScramCredentialUpsertion]:
    """In Kafka's order."""
    return [*request.deletions, *request.upsertions]


def _checked(name: str, number: int) -> scram.Mechanism:
    """The mechanism of one change. Raises Refused."""
    if not name:
        raise Refused(ErrorCode.UNACCEPTABLE_CREDENTIAL, "Username must not be empty")
    if len(name) > MAX_NAME_CHARACTERS or "\0" in name:
        raise Refused(
            ErrorCode.UNACCEPTABLE_CREDENTIAL, f"Username must have at most {MAX_NAME_CHARACTERS} characters, none NUL"
        )
    mechanism = _BY_NUMBER.get(number)
    if mechanism is None:
        raise Refused(ErrorCode.UNSUPPORTED_SASL_MECHANISM, "Unknown SCRAM mechanism")
    return mechanism


def _keys(wanted: ScramCredentialUpsertion, mechanism: scram.Mechanism) -> scram.Keys:
    """Raises Refused."""
    if wanted.iterations < scram.MIN_ITERATIONS:
        raise Refused(ErrorCode.UNACCEPTABLE_CREDENTIAL, "Too few iterations")
    if wanted.iterations > scram.MAX_ITERATIONS:
        raise Refused(ErrorCode.UNACCEPTABLE_CREDENTIAL, "Too many iterations")
    if len(wanted.salt) > MAX_SALT_BYTES:
        raise Refused(ErrorCode.UNACCEPTABLE_CREDENTIAL, f"A salt must have at most {MAX_SALT_BYTES} bytes")
    return scram.keys_from(mechanism, bytes(wanted.salted_password), bytes(wanted.salt), wanted.iterations)
