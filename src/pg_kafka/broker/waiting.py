"""What a broker answers while another one leads: where that one is.

It serves the same APIs in the same versions, from rows made of those of `dispatch.py`, so that clients find the leader
through whichever broker of their list they reach. What it knows comes from the database. Partitions, groups and
transactions are the leader's: those requests get the error that makes clients ask where the leader is. What clients ask of
any broker, and only the leader can do, is asked of the leader.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from pg_kafka.broker.acl_book import AclBook
from pg_kafka.broker.api import Api, HotHandler
from pg_kafka.broker.audit import AuditCounts, LoggedAudit
from pg_kafka.broker.context import Broker, Context, Forwards, LogDir, Own, Versions
from pg_kafka.broker.decoding import Decoding
from pg_kafka.broker.doors import House
from pg_kafka.broker.forwarding import NotForwarded
from pg_kafka.broker.handlers import configs, log_dirs
from pg_kafka.broker.handlers import metadata as leader_metadata
from pg_kafka.broker.permission import Authorizer
from pg_kafka.broker.reply import Reply
from pg_kafka.broker.telemetry import Telemetry
from pg_kafka.clock import Clock
from pg_kafka.cluster.view import ClusterView
from pg_kafka.config import Config
from pg_kafka.config.listeners import Listener
from pg_kafka.config.settings import Settings
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import fetch as fetched
from pg_kafka.wire.messages import list_offsets as listed
from pg_kafka.wire.messages import offset_for_leader_epoch as epochs
from pg_kafka.wire.messages import produce as produced
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest
from pg_kafka.wire.messages.describe_log_dirs import DescribeLogDirsResponse
from pg_kafka.wire.messages.list_groups import ListGroupsResponse
from pg_kafka.wire.messages.list_transactions import ListTransactionsResponse
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataResponse

_BROKER = 4  # a resource of DescribeConfigs
_NOT_LEADER = ErrorCode.NOT_LEADER_OR_FOLLOWER


def rows(apis: Mapping[int, Api]) -> Mapping[int, Api]:
    """The same APIs, as they are answered here."""
    return {key: _row(api) for key, api in apis.items()}


def waiting_broker(
    config: Config,
    listeners: Sequence[Listener],
    versions: Sequence[Versions],
    decoding: Decoding,
    log_dir: LogDir,
    view: ClusterView,
    telemetry: Telemetry,
    authorizer: Authorizer | None = None,
    acls: AclBook | None = None,
    forwarder: Forwards | None = None,
    audited: AuditCounts | None = None,
) -> tuple[Broker, House]:
    """What the listener and the handlers of the APIs that are answered here use of a broker."""
    unused: Any = None
    broker = Broker(
        settings=Settings(config),
        node_id=view.leader.node_id,
        epoch=view.leader_epoch,
        cluster_id=view.cluster_id,
        records=unused,
        fetch_sessions=unused,
        versions=versions,
        clock=unused,
        log_dir=log_dir,
        decoding=decoding,
        listeners=listeners,
        audit=LoggedAudit(Clock(), audited),
        forwarder=forwarder,
        telemetry=telemetry,
    )
    house = House(
        topics=unused,
        log=unused,
        groups=unused,
        transactions=unused,
        on_change=lambda: None,  # nothing is parked here
        authorizer=authorizer,
        acls=acls,
    )
    show(broker, house, config, view)
    return broker, house


def show(broker: Broker, house: House, config: Config, view: ClusterView) -> None:
    """Answer by this view from now on: the leader stands where a broker that leads would name itself."""
    # Topics are created by the leader alone.
    broker.settings = Settings(dataclasses.replace(config, auto_create_topics_enable=False))
    broker.leader = view.leader
    broker.node_id = view.leader.node_id
    broker.epoch = view.leader_epoch
    broker.cluster_id = view.cluster_id
    broker.own = Own(view.node_id, config)
    topics: Any = SimpleNamespace(by_name=view.topics, by_uuid={topic.uuid: topic for topic in view.topics.values()})
    house.topics = topics
    broker.waiting = lambda: view.waiting


async def list_groups(_ctx: Context, _request: Any) -> ListGroupsResponse:
    """Each broker lists what it coordinates: this one nothing."""
    return ListGroupsResponse()


async def list_transactions(_ctx: Context, _request: Any) -> ListTransactionsResponse:
    """As above."""
    return ListTransactionsResponse()


async def describe_log_dirs(ctx: Context, _request: Any) -> DescribeLogDirsResponse:
    """The log is the same; this broker leads nothing in it."""
    return DescribeLogDirsResponse(results=[log_dirs.log_dir(ctx)])


async def metadata(ctx: Context, request: MetadataRequest) -> MetadataResponse:
    """As the leader answers; it alone creates topics, so it is asked about a name that it may create."""
    topics = ctx.doors.topics
    names = [wanted.name for wanted in request.topics or ()]
    if request.allow_auto_topic_creation and any(name is not None and not topics.is_taken(name) for name in names):
        with contextlib.suppress(NotForwarded):
            answer: MetadataResponse = await _ask_leader(ctx, request)
            return answer
    return await leader_metadata.metadata(ctx, request)


async def _describe_configs(ctx: Context, request: DescribeConfigsRequest, reply: Reply) -> None:
    """A broker tells its own settings; those of topics and groups are asked of the leader."""
    own = ctx.broker.own
    assert own is not None
    if any((r.resource_type, r.resource_name) != (_BROKER, str(own.node_id)) for r in request.resources):
        await _asked(ctx, request, reply)
        return
    itself = dataclasses.replace(ctx.broker, settings=Settings(own.config), node_id=own.node_id, leader=None)
    reply.send(await configs.describe_configs(dataclasses.replace(ctx, broker=itself), request))


async def _asked(ctx: Context, request: Any, reply: Reply) -> None:
    try:
        reply.send(await _ask_leader(ctx, request))
    except NotForwarded as reason:
        reply.close(f"this broker waits, and the one that leads does not answer: {reason}")


async def _ask_leader(ctx: Context, request: Any) -> Any:
    """Raises NotForwarded."""
    if ctx.broker.forwarder is None:
        raise NotForwarded("there is no way to it")
    return await ctx.broker.forwarder.ask(ctx, request)


def produce(request: Any) -> produced.ProduceResponse | None:
    if not request.acks:
        return None  # there is no answer, so the connection says it
    return produced.ProduceResponse(
        responses=[
            produced.TopicProduceResponse(
                name=topic.name,
                topic_id=topic.topic_id,
                partition_responses=[
                    produced.PartitionProduceResponse(index=part.index, error_code=_NOT_LEADER, base_offset=-1)
                    for part in topic.partition_data
                ],
            )
            for topic in request.topic_data
        ]
    )


def fetch(request: Any) -> fetched.FetchResponse:
    return fetched.FetchResponse(
        responses=[
            fetched.FetchableTopicResponse(
                topic=topic.topic,
                topic_id=topic.topic_id,
                partitions=[
                    fetched.PartitionData(
                        partition_index=part.partition, error_code=_NOT_LEADER, high_watermark=-1, records=b""
                    )
                    for part in topic.partitions
                ],
            )
            for topic in request.topics
        ],
        # Of a session that this broker does not know, which ends it.
        error_code=ErrorCode.FETCH_SESSION_ID_NOT_FOUND if request.session_id else ErrorCode.NONE,
    )


def list_offsets(request: Any) -> listed.ListOffsetsResponse:
    return listed.ListOffsetsResponse(
        topics=[
            listed.ListOffsetsTopicResponse(
                name=topic.name,
                partitions=[
                    listed.ListOffsetsPartitionResponse(partition_index=part.partition_index, error_code=_NOT_LEADER)
                    for part in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


def offset_for_leader_epoch(request: Any) -> epochs.OffsetForLeaderEpochResponse:
    return epochs.OffsetForLeaderEpochResponse(
        topics=[
            epochs.OffsetForLeaderTopicResult(
                topic=topic.topic,
                partitions=[
                    epochs.EpochEndOffset(partition=part.partition, error_code=_NOT_LEADER) for part in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


def _refuse(answer: Callable[[Any], Any | None], _ctx: Context, request: Any, reply: Reply) -> None:
    message = answer(request)
    if message is None:
        reply.close("this broker waits for the one that leads")
    else:
        reply.send(message)


# By the handlers of a broker that leads.
_ANSWERED = (
    "ApiVersions",
    "DescribeTopicPartitions",
    "FindCoordinator",
    "DescribeCluster",
    "SaslHandshake",
    "SaslAuthenticate",
    "DescribeAcls",
    "CreateAcls",
    "DeleteAcls",
    # Clients push their metrics to any broker, often to one that has nothing else to do.
    "GetTelemetrySubscriptions",
    "PushTelemetry",
)
_OWN: Mapping[str, Callable[[Context, Any], Any]] = {
    "Metadata": metadata,
    "DescribeLogDirs": describe_log_dirs,
    "ListGroups": list_groups,
    "ListTransactions": list_transactions,
}
# Clients ask these of any broker, and InitProducerId when they have no transactional id. Kafka's brokers pass what only
# the controller can do on to it.
_ASKED = (
    "DescribeConfigs",
    "AlterConfigs",
    "IncrementalAlterConfigs",
    "ListConfigResources",
    "InitProducerId",
    "ElectLeaders",
    "AlterPartitionReassignments",
    "ListPartitionReassignments",
    "DescribeQuorum",
    "UpdateFeatures",
    "UnregisterBroker",
    "DescribeUserScramCredentials",
    "DescribeClientQuotas",
    "AlterClientQuotas",
)
_NOT_LED_HERE: Mapping[str, Callable[[Any], Any | None]] = {
    "Produce": produce,
    "Fetch": fetch,
    "ListOffsets": list_offsets,
    "OffsetForLeaderEpoch": offset_for_leader_epoch,
}
# In the API's own form for failures.
_CODES: Mapping[str, ErrorCode] = {
    **dict.fromkeys(("DeleteRecords", "DescribeProducers", "WriteTxnMarkers", "AlterReplicaLogDirs"), _NOT_LEADER),
    **dict.fromkeys(("CreateTopics", "DeleteTopics", "CreatePartitions"), ErrorCode.NOT_CONTROLLER),
    # It holds salted passwords, as good as passwords, which are not to pass through a table.
    "AlterUserScramCredentials": ErrorCode.NOT_CONTROLLER,
    **dict.fromkeys(
        (
            "OffsetCommit",
            "OffsetFetch",
            "JoinGroup",
            "Heartbeat",
            "LeaveGroup",
            "SyncGroup",
            "DescribeGroups",
            "DeleteGroups",
            "OffsetDelete",
            "AddPartitionsToTxn",
            "AddOffsetsToTxn",
            "EndTxn",
            "TxnOffsetCommit",
            "DescribeTransactions",
            "ConsumerGroupHeartbeat",
            "ConsumerGroupDescribe",
        ),
        ErrorCode.NOT_COORDINATOR,
    ),
}


def _row(api: Api) -> Api:
    """The row of an API while another broker leads. Where no answer fits, the connection is closed: clients ask another one."""
    if api.name in _ANSWERED:
        return api
    if api.name in _OWN:
        return dataclasses.replace(api, handler=_OWN[api.name])
    handler: HotHandler = partial(_refuse, _NOT_LED_HERE.get(api.name, _no_answer))
    if api.name in _CODES and api.failure is not None:
        handler = partial(_refuse, partial(_failure, api.failure, _CODES[api.name]))
    elif api.name == "DescribeConfigs":
        handler = _describe_configs
    elif api.name in _ASKED:
        handler = _asked if api.failure is None else partial(_asked_or_refused, api.failure)
    return dataclasses.replace(api, handler=handler, is_hot=True, is_pipelined=False, recurrent=None)


def _no_answer(_request: Any) -> None:
    return None


def _failure(form: Callable[[Any, int], Any], code: ErrorCode, request: Any) -> Any:
    return form(request, code)


async def _asked_or_refused(form: Callable[[Any, int], Any], ctx: Context, request: Any, reply: Reply) -> None:
    """A transactional id has its coordinator; what has none is asked of the leader."""
    if getattr(request, "transactional_id", None) is not None:
        reply.send(form(request, ErrorCode.NOT_COORDINATOR))
    else:
        await _asked(ctx, request, reply)
