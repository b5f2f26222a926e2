"""DescribeCluster: the brokers, for admin clients."""

from __future__ import annotations

from pg_kafka.broker.context import Context
from pg_kafka.broker.handlers.authorized import CLUSTER_OPERATIONS, NOT_ASKED
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.describe_cluster import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
)

_BROKERS, _CONTROLLERS = 1, 2


async def describe_cluster(ctx: Context, request: DescribeClusterRequest) -> DescribeClusterResponse:
    """Describe the cluster.

    Versions  0-2. All are flexible; the endpoint type came with 1.
    Rules     - endpoint type 2 (controllers) is MISMATCHED_ENDPOINT_TYPE, others UNSUPPORTED_ENDPOINT_TYPE
              - a fenced broker is never listed: it has lost its place in the database; those that wait are
    Not done  - controllers: this broker is its own
    """
    if request.endpoint_type == _CONTROLLERS:
        return DescribeClusterResponse(
            error_code=ErrorCode.MISMATCHED_ENDPOINT_TYPE,
            error_message="The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type "
            "CONTROLLER",
        )
    if request.endpoint_type != _BROKERS:
        return DescribeClusterResponse(
            error_code=ErrorCode.UNSUPPORTED_ENDPOINT_TYPE,
            error_message=f"Unsupported endpoint type {request.endpoint_type}",
        )
    log = ctx.broker.log
    host, port = ctx.broker.advertised(ctx.connection)
    return DescribeClusterResponse(
        cluster_id=log.cluster_id,
        controller_id=log.node_id,
        brokers=[
            DescribeClusterBroker(broker_id=log.node_id, host=host, port=port),
            *(DescribeClusterBroker(broker_id=o.node_id, host=o.host, port=o.port) for o in ctx.broker.others()),
        ],
        cluster_authorized_operations=CLUSTER_OPERATIONS
        if request.include_cluster_authorized_operations
        else NOT_ASKED,
    )


def failure(request: DescribeClusterRequest, code: int) -> DescribeClusterResponse:
    return DescribeClusterResponse(error_code=code)
