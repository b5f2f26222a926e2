"""FindCoordinator: which broker answers for a group or a transactional id."""

from __future__ import annotations

from pg_kafka.broker.context import Context
from pg_kafka.broker.permission import DENIED, Operation, ResourceType
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse

_GROUP, _TRANSACTION, _SHARE = 0, 1, 2
_SINCE_BATCHES = 4
# Kafka's message of an answer that is no error: null neither in the old form nor in the new one.
_NO_ERROR, _NO_ERROR_IN_BATCH = "NONE", ""
_UNKNOWN_TYPE = "there is no coordinator for this type of key"


async def find_coordinator(ctx: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
    """Name the coordinator of each key.

    Versions  0-6. From 4 on several keys at a time.
    Rules     - groups (0) and transactional ids (1) are this broker's
              - another type of key is INVALID_REQUEST, key by key
    Not done  - share groups (2): INVALID_REQUEST
    """
    if request.key_type not in (_GROUP, _TRANSACTION):
        return failure(request, ErrorCode.INVALID_REQUEST)
    resource = ResourceType.GROUP if request.key_type == _GROUP else ResourceType.TRANSACTIONAL_ID
    node_id = ctx.broker.node_id
    host, port = ctx.broker.advertised(ctx.connection)
    if ctx.version < _SINCE_BATCHES:
        ctx.doors.check(Operation.DESCRIBE, resource, request.key)
        return FindCoordinatorResponse(error_message=_NO_ERROR, node_id=node_id, host=host, port=port)
    return FindCoordinatorResponse(
        coordinators=[
            Coordinator(key=key, error_message=_NO_ERROR_IN_BATCH, node_id=node_id, host=host, port=port)
            if ctx.doors.may(Operation.DESCRIBE, resource, key)
            else Coordinator(key=key, error_code=DENIED[resource], node_id=-1, port=-1)
            for key in request.coordinator_keys
        ]
    )


def failure(request: FindCoordinatorRequest, code: int) -> FindCoordinatorResponse:
    """The error in both forms; the version decides which one is sent."""
    message = _UNKNOWN_TYPE if code == ErrorCode.INVALID_REQUEST else None
    in_batch = _NO_ERROR_IN_BATCH if request.key_type == _SHARE else message
    return FindCoordinatorResponse(
        error_code=code,
        error_message=message,
        node_id=-1,
        port=-1,
        coordinators=[
            Coordinator(key=key, node_id=-1, port=-1, error_code=code, error_message=in_batch)
            for key in request.coordinator_keys
        ],
    )
