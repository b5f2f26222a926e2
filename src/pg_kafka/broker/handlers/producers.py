"""InitProducerId: an id for an idempotent producer, or the next epoch for a transactional one."""

from __future__ import annotations

from pg_kafka.broker.context import Context
from pg_kafka.broker.permission import Operation
from pg_kafka.errors import StorageError
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

_NONE = -1


async def init_producer_id(ctx: Context, request: InitProducerIdRequest) -> InitProducerIdResponse:
    """Give a producer id that was never given before, or the producer of a transactional id the next epoch.

    Versions  0-5. 2 is the first flexible one, 3 brings the producer's own id and epoch (KIP-360), 4 knows
              PRODUCER_FENCED (KIP-588), 5 TRANSACTION_ABORTABLE.
    Rules     - without a transactional id always a new id, with epoch 0, whatever id and epoch the producer names
              - an id without an epoch, or the reverse, is INVALID_REQUEST, and so is an empty transactional id, one with
                a NUL, and one of more than 2,000 bytes
              - with a transactional id all else is its machine's: `coordinator/transactions.py`; an open transaction is
                aborted, and the producer asks again after CONCURRENT_TRANSACTIONS
              - when the database does not answer: COORDINATOR_LOAD_IN_PROGRESS, which makes producers ask again
    """
    if (request.producer_id == _NONE) != (request.producer_epoch == _NONE) or request.transactional_id == "":
        return _refused(ErrorCode.INVALID_REQUEST)
    if request.transactional_id is not None:
        return await _init_transactional(ctx, request, request.transactional_id)
    ctx.doors.check_idempotent_write()
    try:
        producer_id = await ctx.doors.transactions.new_producer_id()
    except StorageError as error:
        return _refused(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if error.retriable else error.code)
    return InitProducerIdResponse(producer_id=producer_id, producer_epoch=0)


async def _init_transactional(
    ctx: Context, request: InitProducerIdRequest, transactional_id: str
) -> InitProducerIdResponse:
    room = ctx.doors.transactions.enter(Operation.WRITE, transactional_id)
    if not room.can_be:
        return _refused(ErrorCode.INVALID_REQUEST)
    step = await room.init_producer(
        request.producer_id, request.producer_epoch, request.transaction_timeout_ms, ctx.version
    )
    if step.error:
        return _refused(step.error)
    producer_id, epoch = step.reply
    return InitProducerIdResponse(producer_id=producer_id, producer_epoch=epoch)


def _refused(code: int) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=_NONE, producer_epoch=_NONE)


def failure(request: InitProducerIdRequest, code: int) -> InitProducerIdResponse:
    return _refused(code)
