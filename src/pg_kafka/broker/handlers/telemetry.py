"""GetTelemetrySubscriptions and PushTelemetry: clients push their metrics (KIP-714)."""

from __future__ import annotations

from uuid import UUID

from pg_kafka.broker.context import Context
from pg_kafka.broker.telemetry import COMPRESSIONS
from pg_kafka.coordinator.client_metrics import Client, Pushing, shown
from pg_kafka.coordinator.pushed_metrics import Detail
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages.get_telemetry_subscriptions import (
    GetTelemetrySubscriptionsRequest,
    GetTelemetrySubscriptionsResponse,
)
from pg_kafka.wire.messages.push_telemetry import PushTelemetryRequest, PushTelemetryResponse

# As in Kafka, of a client that has asked for no ApiVersions.
_UNKNOWN = "unknown"


async def get_telemetry_subscriptions(
    ctx: Context, request: GetTelemetrySubscriptionsRequest
) -> GetTelemetrySubscriptionsResponse:
    """Tell a client which metrics to push, and how often.

    Versions  0.
    Rules     - a client without an id gets one, which it keeps until it ends
              - all subscriptions that match it count together: their metrics, and the least of their intervals
              - a client that has asked or pushed within an interval is THROTTLING_QUOTA_EXCEEDED, unless subscriptions
                have changed, or its last push was UNKNOWN_SUBSCRIPTION_ID or UNSUPPORTED_COMPRESSION_TYPE
              - one for whom nothing matches is told no metrics; `*` alone is all
    """
    telemetry = ctx.broker.telemetry
    instance_id = request.client_instance_id
    if instance_id == ZERO_UUID:
        instance_id = telemetry.new_id()
    code, instance = telemetry.ask(instance_id, _client(ctx, instance_id), ctx.connection)
    if code:
        return subscriptions_failure(request, code)
    return GetTelemetrySubscriptionsResponse(
        client_instance_id=instance.id,
        subscription_id=instance.subscription_id,
        accepted_compression_types=COMPRESSIONS,
        push_interval_ms=instance.interval_ms,
        telemetry_max_bytes=ctx.broker.config.telemetry_max_bytes,
        delta_temporality=True,
        requested_metrics=instance.metrics,
    )


def subscriptions_failure(_request: GetTelemetrySubscriptionsRequest, code: int) -> GetTelemetrySubscriptionsResponse:
    return GetTelemetrySubscriptionsResponse(error_code=code)


async def push_telemetry(ctx: Context, request: PushTelemetryRequest) -> PushTelemetryResponse:
    """Take the metrics of a client.

    Versions  0.
    Rules     - once in an interval, and once more when it ends (`terminating`); else THROTTLING_QUOTA_EXCEEDED
              - what was subscribed by another id than this client's is UNKNOWN_SUBSCRIPTION_ID: it asks anew
              - an unknown compression is UNSUPPORTED_COMPRESSION_TYPE, more than `telemetry.max.bytes`, as sent or
                decompressed, TELEMETRY_TOO_LARGE, what is no OTLP INVALID_RECORD; then none of it is taken
              - a reserved id, and a push after the last one, is INVALID_REQUEST
    Not done  - histograms and summaries, which none of Kafka's clients push: they are read over
    """
    what = Pushing(request.subscription_id, request.compression_type, len(request.metrics), request.terminating)
    config = ctx.broker.config
    code = await ctx.broker.telemetry.push(
        ctx.broker.turns,
        request.client_instance_id,
        _client(ctx, request.client_instance_id),
        ctx.connection,
        what,
        bytes(request.metrics),
        most_bytes=config.telemetry_max_bytes,
        detail=Detail(config.client_metrics_by_instance, config.metrics_per_partition, config.metrics_max_series),
    )
    return push_failure(request, code)


def push_failure(_request: PushTelemetryRequest, code: int) -> PushTelemetryResponse:
    return PushTelemetryResponse(error_code=code)


def _client(ctx: Context, instance_id: UUID) -> Client:
    """What subscriptions match by."""
    connection = ctx.connection
    return Client(
        client_instance_id=shown(instance_id),
        client_id=ctx.header.client_id,
        client_software_name=connection.client_software_name or _UNKNOWN,
        client_software_version=connection.client_software_version or _UNKNOWN,
        client_source_address=connection.peer[0],
        client_source_port=str(connection.peer[1]),
    )
