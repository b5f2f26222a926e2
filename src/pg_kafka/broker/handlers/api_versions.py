"""ApiVersions: what this broker serves, made from the dispatch table."""

from __future__ import annotations

import re

from pg_kafka.broker.context import Context
from pg_kafka.broker.handlers.features import FINALIZED, SUPPORTED
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.api_versions import ApiVersion, ApiVersionsRequest, ApiVersionsResponse

_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?")
_SINCE_SOFTWARE_NAMES = 3
_SINCE_IDENTITY = 5
_NO_NODE = -1


async def api_versions(ctx: Context, request: ApiVersionsRequest) -> ApiVersionsResponse:
    """List the APIs and versions that are served.

    Versions  0-5. From 3 on the client names its software (KIP-511), from 5 on the broker that it means (KIP-1242).
    Rules     - a software name or version that is not letters, digits, dots and inner dashes is INVALID_REQUEST
              - a version of this API that is not served is answered in the form of version 0 (`unsupported_version`)
              - a client that knows neither cluster nor node names neither; one without the other is INVALID_REQUEST
              - another cluster, or another node of this one, is REBOOTSTRAP_REQUIRED: the client has come to an address
                that had belonged to another broker, and asks its bootstrap servers anew
              - the features and their levels: `handlers/features.py`
    Not done  - Kafka's other features
    """
    if ctx.version >= _SINCE_SOFTWARE_NAMES:
        name, version = request.client_software_name, request.client_software_version
        if _SOFTWARE.fullmatch(name) is None or _SOFTWARE.fullmatch(version) is None:
            return failure(request, ErrorCode.INVALID_REQUEST)
        ctx.connection.client_software_name = name
        ctx.connection.client_software_version = version
    if ctx.version >= _SINCE_IDENTITY and (code := _code_of_identity(ctx, request)):
        return failure(request, code)
    return ApiVersionsResponse(
        api_keys=_served(ctx),
        supported_features=SUPPORTED,
        finalized_features_epoch=0,
        finalized_features=FINALIZED,
    )


def _code_of_identity(ctx: Context, request: ApiVersionsRequest) -> int:
    """NONE when the client means this broker, or does not say whom it means."""
    if (request.cluster_id is None) != (request.node_id == _NO_NODE):
        return int(ErrorCode.INVALID_REQUEST)
    if request.cluster_id is None:
        return int(ErrorCode.NONE)
    broker = ctx.broker
    # One that waits speaks of the leader elsewhere, but it is itself that the client has reached.
    node_id = broker.node_id if broker.own is None else broker.own.node_id
    is_meant = (request.cluster_id, request.node_id) == (broker.cluster_id, node_id)
    return int(ErrorCode.NONE if is_meant else ErrorCode.REBOOTSTRAP_REQUIRED)


def unsupported_version(ctx: Context) -> ApiVersionsResponse:
    """The answer, in the form of version 0, to a version that is not served."""
    return ApiVersionsResponse(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=_served(ctx))


def failure(request: ApiVersionsRequest, code: int) -> ApiVersionsResponse:
    return ApiVersionsResponse(error_code=code)


def _served(ctx: Context) -> list[ApiVersion]:
    return [ApiVersion(api_key=api.key, min_version=api.first, max_version=api.last) for api in ctx.broker.versions]
