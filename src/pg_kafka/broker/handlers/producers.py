"""InitProducerId: an id for an idempotent producer."""

from __future__ import annotations

from pg_kafka.broker.context import Context
from pg_kafka.errors import StorageError
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.init_producer_id_request import InitProducerIdRequest
from pg_kafka.wire.messages.init_producer_id_response import InitProducerIdResponse

_NONE = -1


async def init_producer_id(ctx: Context, request: InitProducerIdRequest) -> InitProducerIdResponse:
    """Give a producer id that was never given before.

    Versions  0-5. 2 is the first flexible one, 3 brings the producer's own id and epoch (KIP-360).
    Rules     - without a transactional id always a new id, with epoch 0, whatever id and epoch the producer names
              - an id without an epoch, or the reverse, is INVALID_REQUEST, and so is an empty transactional id
              - when the database does not answer: COORDINATOR_LOAD_IN_PROGRESS, which makes producers ask again
    Not done  - transactions: a transactional id is TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    """
    if (request.producer_id == _NONE) != (request.producer_epoch == _NONE) or request.transactional_id == "":
        return _refused(ErrorCode.INVALID_REQUEST)
    if request.transactional_id is not None:
        return _refused(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    try:
        producer_id = await ctx.broker.log.allocate_producer_id()
    except StorageError as error:
        return _refused(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if error.retriable else error.code)
    return InitProducerIdResponse(producer_id=producer_id, producer_epoch=0)


def _refused(code: int) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=_NONE, producer_epoch=_NONE)
