"""The features of the cluster: levels that clients are told of (ApiVersions), and UpdateFeatures, which asks for others."""

from __future__ import annotations

from collections.abc import Mapping

from pg_kafka.broker.context import Context
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.api_versions import FinalizedFeatureKey, SupportedFeatureKey
from pg_kafka.wire.messages.update_features import (
    FeatureUpdateKey,
    UpdatableFeatureResult,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)

FEATURES: Mapping[str, int] = {
    # The consumer protocol (KIP-848).
    "group.version": 1,
    # There is no metadata log. Consoles take the level for the release of Kafka, and turn on by it what they offer:
    # Kafbat UI has a table of levels, in which 30 (4.3-IV0) is the highest. With one that is not in its table it shows
    # "Unknown" and offers no changes of configs and no quotas. Kafka 4.4 itself would say 33. What clients use of Kafka
    # 4.4 they find in the versions of the APIs.
    "metadata.version": 30,
    # Transactions whose ends have epochs of their own (KIP-890).
    "transaction.version": 2,
}
"""The features and their levels. Each has the one level, always: the broker could not work at another."""

SUPPORTED = [SupportedFeatureKey(name=name, min_version=level, max_version=level) for name, level in FEATURES.items()]
FINALIZED = [
    FinalizedFeatureKey(name=name, min_version_level=level, max_version_level=level) for name, level in FEATURES.items()
]

_UPGRADE_TYPES = (1, 2, 3)  # upgrade, safe and unsafe downgrade
_SINCE_ONE_ANSWER = 2


async def update_features(ctx: Context, request: UpdateFeaturesRequest) -> UpdateFeaturesResponse:
    """Set features to levels: to those that they have.

    Versions  0-2. 1 has kinds of upgrades and validate_only, 2 answers for all features together.
    Rules     - a level that the feature does not have, and a feature that there is not, are INVALID_UPDATE_VERSION for
                the whole request, with the message of Kafka's controller
              - of a feature that is named twice the last mention counts
              - as in Kafka, version 0 always asks for an upgrade, whatever it says of downgrades
    Not done  - other levels of features: each has one
    """
    ctx.doors.check(Operation.ALTER, ResourceType.CLUSTER)
    last = {update.feature: update async for update in ctx.broker.turns.each(request.feature_updates)}
    for update in last.values():
        if fault := _fault(update, ctx.broker.node_id):
            return UpdateFeaturesResponse(
                error_code=ErrorCode.INVALID_UPDATE_VERSION,
                error_message="The update failed for all features since the following feature had an error: Invalid "
                f"update version {update.max_version_level} for feature {update.feature}. {fault}",
            )
    if ctx.version >= _SINCE_ONE_ANSWER:
        return UpdateFeaturesResponse()
    return UpdateFeaturesResponse(
        # The word is Kafka's name of the code; its clients look at the code alone.
        results=[
            UpdatableFeatureResult(feature=update.feature, error_message=ErrorCode.NONE.name)
            for update in request.feature_updates
        ]
    )


def failure(request: UpdateFeaturesRequest, code: int) -> UpdateFeaturesResponse:
    return UpdateFeaturesResponse(error_code=code)


def _fault(update: FeatureUpdateKey, node_id: int) -> str | None:
    """Why the feature cannot be set to that level, in the words of Kafka's controller."""
    if update.upgrade_type not in _UPGRADE_TYPES:
        return "The controller does not support the given upgrade type."
    wanted, level = update.max_version_level, FEATURES.get(update.feature)
    if wanted < 0:
        return "A feature version cannot be less than 0."
    if level is None:
        # Level 0 of a feature means that there is none.
        return (
            f"Local controller {node_id} does not support this feature."
            if wanted
            else f"Feature {update.feature} not found."
        )
    return None if wanted == level else f"Local controller {node_id} only supports versions {level}-{level}"
