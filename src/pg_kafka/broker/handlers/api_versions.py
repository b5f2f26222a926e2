"""ApiVersions: what this broker serves, made from the dispatch table."""

from __future__ import annotations

import re

from pg_kafka.broker.context import Context
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.api_versions import (
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)

API_VERSIONS_KEY = 18

_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?")
_SINCE_SOFTWARE_NAMES = 3
_SINCE_LEVEL_0 = 4
# The consumer protocol (KIP-848) and transactions whose ends have epochs of their own (KIP-890), with their levels.
_FEATURES = {"group.version": 1, "transaction.version": 2}
_SUPPORTED = [SupportedFeatureKey(name=name, min_version=0, max_version=level) for name, level in _FEATURES.items()]
_FINALIZED = [
    FinalizedFeatureKey(name=name, min_version_level=level, max_version_level=level)
    for name, level in _FEATURES.items()
]


async def api_versions(ctx: Context, request: ApiVersionsRequest) -> ApiVersionsResponse:
    """List the APIs and versions that are served.

    Versions  0-4. From 3 on the client names its software (KIP-511).
    Rules     - a software name or version that is not letters, digits, dots and inner dashes is INVALID_REQUEST
              - a version of this API that is not served is answered in the form of version 0 (`unsupported_version`)
              - two features: group.version (the consumer protocol, KIP-848), always at level 1, and transaction.version
                (KIP-890), always at level 2; that they could be at 0 is told from version 4 on, as earlier clients take
                no 0
    Not done  - Kafka's other features: `kafka-features.sh` shows these two alone, and changes nothing
    """
    if ctx.version >= _SINCE_SOFTWARE_NAMES:
        name, version = request.client_software_name, request.client_software_version
        if _SOFTWARE.fullmatch(name) is None or _SOFTWARE.fullmatch(version) is None:
            return failure(request, ErrorCode.INVALID_REQUEST)
        ctx.connection.client_software_name = name
        ctx.connection.client_software_version = version
    return ApiVersionsResponse(
        api_keys=_served(ctx),
        supported_features=_SUPPORTED if ctx.version >= _SINCE_LEVEL_0 else (),
        finalized_features_epoch=0,
        finalized_features=_FINALIZED,
    )


def unsupported_version(ctx: Context) -> ApiVersionsResponse:
    """The answer, in the form of version 0, to a version that is not served."""
    return ApiVersionsResponse(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=_served(ctx))


def failure(request: ApiVersionsRequest, code: int) -> ApiVersionsResponse:
    return ApiVersionsResponse(error_code=code)


def _served(ctx: Context) -> list[ApiVersion]:
    return [
        ApiVersion(
            api_key=api.key,
            min_version=api.min_version if api.advertised_min is None else api.advertised_min,
            max_version=api.max_version,
        )
        for api in sorted(ctx.broker.apis.values(), key=lambda api: api.key)
    ]
