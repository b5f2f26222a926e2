"""The brokers, for admin clients: DescribeCluster, UnregisterBroker, and DescribeQuorum, which asks who decides."""

from __future__ import annotations

from pg_kafka.broker.context import Context
from pg_kafka.broker.handlers.authorized import NOT_ASKED
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.coordinator import topic_names
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.describe_cluster import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
)
from pg_kafka.wire.messages.describe_quorum import (
    DescribeQuorumRequest,
    DescribeQuorumResponse,
    Listener,
    Node,
    ReplicaState,
    RequestTopicData,
    ResponsePartitionData,
    ResponseTopicData,
)
from pg_kafka.wire.messages.unregister_broker import UnregisterBrokerRequest, UnregisterBrokerResponse

_BROKERS, _CONTROLLERS = 1, 2
_NOT_HERE = "This server does not host this topic-partition."


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
    broker = ctx.broker
    host, port = broker.advertised(ctx.connection)
    return DescribeClusterResponse(
        cluster_id=broker.cluster_id,
        controller_id=broker.node_id,
        brokers=[
            DescribeClusterBroker(broker_id=broker.node_id, host=host, port=port),
            *(
                DescribeClusterBroker(broker_id=other, host=host, port=port)
                for other, host, port in broker.others(ctx.connection)
            ),
        ],
        cluster_authorized_operations=ctx.doors.cluster_operations()
        if request.include_cluster_authorized_operations
        else NOT_ASKED,
    )


def failure(request: DescribeClusterRequest, code: int) -> DescribeClusterResponse:
    return DescribeClusterResponse(error_code=code)


# -- DescribeQuorum ------------------------------------------------------------------------------------------------------


async def describe_quorum(ctx: Context, request: DescribeQuorumRequest) -> DescribeQuorumResponse:
    """Describe who keeps the metadata: the broker that leads, in the database.

    Versions  0-2. All are flexible; 1 has times (KIP-836), 2 messages and the brokers' addresses (KIP-853).
    Rules     - the one partition that can be asked for is that of `__cluster_metadata`; with any other, all that are
                asked for are UNKNOWN_TOPIC_OR_PARTITION
              - the broker that leads is leader and only voter, in the leader epoch of its partitions: the database alone
                says who leads. Brokers that wait for its end are observers
              - offsets are the number of the newest change of the catalogue (`kafka.catalogue_changes`). All read the
                same tables, so nobody lags
    Not done  - a metadata log, and a quorum that votes: PostgreSQL keeps the metadata
    """
    ctx.doors.check(Operation.DESCRIBE, ResourceType.CLUSTER)
    if not request.topics:
        return DescribeQuorumResponse(error_message="")
    asked = [(topic.topic_name, one.partition_index) for topic in request.topics for one in topic.partitions]
    if asked != [(topic_names.METADATA_TOPIC, 0)]:
        return DescribeQuorumResponse(
            error_message="",
            topics=[_no_quorum(topic, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, _NOT_HERE) for topic in request.topics],
        )
    broker = ctx.broker
    end = await ctx.doors.topics.newest_change()
    now_ms = broker.clock.wall_ms()
    host, port = broker.advertised(ctx.connection)
    leader = ReplicaState(
        replica_id=broker.node_id, log_end_offset=end, last_fetch_timestamp=now_ms, last_caught_up_timestamp=now_ms
    )
    described = ResponsePartitionData(
        error_message="",
        leader_id=broker.node_id,
        leader_epoch=broker.epoch,
        high_watermark=end,
        current_voters=[leader],
        observers=[ReplicaState(replica_id=peer.node_id, log_end_offset=end) for peer in broker.waiting()],
    )
    addresses = [(broker.node_id, host, port), *broker.others(ctx.connection)]
    return DescribeQuorumResponse(
        error_message="",
        topics=[ResponseTopicData(topic_name=topic_names.METADATA_TOPIC, partitions=[described])],
        nodes=[
            Node(node_id=node_id, listeners=[Listener(name=ctx.connection.listener.name, host=host, port=port)])
            for node_id, host, port in addresses
        ],
    )


def quorum_failure(request: DescribeQuorumRequest, code: int) -> DescribeQuorumResponse:
    return DescribeQuorumResponse(error_code=code, error_message="")


def _no_quorum(topic: RequestTopicData, code: int, message: str | None) -> ResponseTopicData:
    return ResponseTopicData(
        topic_name=topic.topic_name,
        partitions=[
            ResponsePartitionData(partition_index=one.partition_index, error_code=code, error_message=message)
            for one in topic.partitions
        ],
    )


# -- UnregisterBroker ----------------------------------------------------------------------------------------------------


async def unregister_broker(ctx: Context, request: UnregisterBrokerRequest) -> UnregisterBrokerResponse:
    """Take a broker out of the cluster: only one that has ended is out, and that one is at once.

    Versions  0.
    Rules     - a broker that is not there, or is not there any more, is BROKER_ID_NOT_REGISTERED
              - one that runs is INVALID_REQUEST: it would come back with its next sign of life
    Not done  - taking out a broker that runs
    """
    ctx.doors.check(Operation.ALTER, ResourceType.CLUSTER)
    wanted, broker = request.broker_id, ctx.broker
    if wanted == broker.node_id or any(peer.node_id == wanted for peer in broker.waiting()):
        return UnregisterBrokerResponse(
            error_code=ErrorCode.INVALID_REQUEST,
            error_message=f"Broker {wanted} is running. Stop it: it leaves the cluster when it ends.",
        )
    return UnregisterBrokerResponse(
        error_code=ErrorCode.BROKER_ID_NOT_REGISTERED,
        error_message=f"Broker ID {wanted} is not currently registered",
    )


def unregister_failure(request: UnregisterBrokerRequest, code: int) -> UnregisterBrokerResponse:
    return UnregisterBrokerResponse(error_code=code)
