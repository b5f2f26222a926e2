"""One transactional id: what each request gets in each state, epochs, timers, and what is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.transaction_world import BEGIN_MS, SETTINGS

from pg_kafka.coordinator.records import Record
from pg_kafka.coordinator.transaction_steps import (
    COMPLETE_ABORT,
    COMPLETE_COMMIT,
    DEAD,
    EMPTY,
    ONGOING,
    PREPARE_ABORT,
    PREPARE_COMMIT,
    Decision,
    Description,
    PendingOffset,
    Step,
)
from pg_kafka.coordinator.transactions import HOLD_AFTER_START_MS, LAST_EPOCH, TRANSITIONS, Transaction
from pg_kafka.wire.error_codes import ErrorCode

P0, P1, OTHER = (1, 0), (1, 1), (2, 0)
TIMEOUT_MS = 10_000
HERE = (7, 0)
"""The producer that `initialised` gives."""

PENDING = PendingOffset("g", *P0, 5, -1, "m", BEGIN_MS)


def new(transactional_id: str = "t") -> Transaction:
    return Transaction(transactional_id, SETTINGS)


def init(
    machine: Transaction,
    producer_id: int = -1,
    epoch: int = -1,
    *,
    fresh: int | None = None,
    version: int = 5,
    **more: Any,
) -> Step:
    how = {"timeout_ms": TIMEOUT_MS, "steady_ms": BEGIN_MS, **more}
    return machine.init_producer(producer_id, epoch, fresh_producer_id=fresh, version=version, **how)


def initialised(epoch: int = 0) -> Transaction:
    """In Empty, with the producer 7."""
    machine = new()
    assert init(machine, fresh=7).reply == HERE
    set_epoch(machine, epoch)
    return machine


def set_epoch(machine: Transaction, epoch: int) -> None:
    value = dict(machine.records_of_state()[0].value or {})
    machine.apply(Record("transaction", "", {**value, "producer_epoch": epoch}))


def add(machine: Transaction, *partitions: tuple[int, int], version: int = 3) -> Step:
    places = [(*partition, 0) for partition in partitions or [P0]]
    return machine.add_partitions(
        machine.producer_id, machine.producer_epoch, places, version=version, steady_ms=BEGIN_MS
    )


def end(machine: Transaction, commit: bool = True, *, version: int = 5, fresh: int | None = None) -> Step:
    """As the producer of now."""
    return machine.end(
        machine.producer_id,
        machine.producer_epoch,
        commit,
        version=version,
        fresh_producer_id=fresh,
        steady_ms=BEGIN_MS,
    )


def in_state(state: str, version: int = 5) -> Transaction:
    """One of producer 7, in this state; by ends of this version."""
    machine = initialised()
    if state == EMPTY:
        return machine
    add(machine)
    if state == ONGOING:
        return machine
    end(machine, state in (PREPARE_COMMIT, COMPLETE_COMMIT), version=version)
    if state in (COMPLETE_COMMIT, COMPLETE_ABORT, DEAD):
        machine.ended(BEGIN_MS)
    if state == DEAD:
        machine.on_timer("expire", BEGIN_MS + SETTINGS.transactional_id_expiration_ms)
    assert machine.state == state
    return machine


def kinds(step: Step) -> list[tuple[str, str | None]]:
    """What was written: kinds, and the states that transactions got."""
    return [(record.kind, record.value and record.value.get("state")) for record in step.records]


# -- InitProducerId ----------------------------------------------------------------------------------------------------


def test_a_new_id_gets_a_fresh_producer() -> None:
    machine = new()
    assert machine.is_blank
    assert machine.needs_producer_id
    step = init(machine, fresh=7)
    assert step.reply == (7, 0)
    assert kinds(step) == [("transaction", EMPTY)]
    assert step.timers == {"timeout": None, "expire": BEGIN_MS + SETTINGS.transactional_id_expiration_ms}
    assert not machine.needs_producer_id


def test_a_producer_that_names_its_id_gets_a_fresh_one_when_nothing_is_known() -> None:
    assert init(new(), 3, 4, fresh=7).reply == (7, 0)


def test_a_fresh_producer_id_has_to_be_given_where_one_is_needed() -> None:
    with pytest.raises(ValueError, match="needs_producer_id"):
        init(new())


def test_each_producer_that_begins_gets_a_higher_epoch() -> None:
    machine = initialised()
    assert init(machine).reply == (7, 1)
    assert init(machine).reply == (7, 2)


def test_a_producer_that_goes_on_names_its_epoch_and_may_repeat_that() -> None:
    machine = initialised()
    assert init(machine, 7, 0).reply == (7, 1)
    assert init(machine, 7, 0).reply == (7, 1)
    assert init(machine, 7, 1).reply == (7, 2)


@pytest.mark.parametrize(("version", "code"), [(3, ErrorCode.INVALID_PRODUCER_EPOCH), (4, ErrorCode.PRODUCER_FENCED)])
@pytest.mark.parametrize("producer", [(7, 0), (8, 1), (7, 5)])
def test_a_producer_that_was_replaced_cannot_go_on(producer: tuple[int, int], version: int, code: int) -> None:
    machine = initialised()
    init(machine)
    step = init(machine, *producer, version=version)
    assert (step.error, step.reply, step.records) == (code, (-1, -1), [])


def test_an_open_transaction_is_aborted_first() -> None:
    machine = in_state(ONGOING)
    step = init(machine)
    assert step.error == ErrorCode.CONCURRENT_TRANSACTIONS
    assert step.decision is not None
    assert not step.decision.commit
    assert (step.decision.producer_id, step.decision.producer_epoch) == (7, 1)
    assert init(machine).error == ErrorCode.CONCURRENT_TRANSACTIONS
    machine.ended(BEGIN_MS)
    assert init(machine).reply == (7, 2)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"timeout_ms": 0}, ErrorCode.INVALID_TRANSACTION_TIMEOUT),
        ({"timeout_ms": -1}, ErrorCode.INVALID_TRANSACTION_TIMEOUT),
        ({"timeout_ms": SETTINGS.transaction_max_timeout_ms + 1}, ErrorCode.INVALID_TRANSACTION_TIMEOUT),
        ({"enable_2pc": True}, ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        ({"keep_prepared": True}, ErrorCode.UNSUPPORTED_VERSION),
    ],
)
def test_what_init_refuses(more: dict[str, Any], code: int) -> None:
    machine = new()
    assert init(machine, fresh=7, **more).error == code
    assert machine.is_blank
    assert machine.records_of_state() == []


def test_after_the_last_epoch_comes_another_producer_id() -> None:
    machine = initialised(LAST_EPOCH)
    assert machine.needs_producer_id
    assert init(machine, fresh=8).reply == (8, 0)
    machine = initialised(LAST_EPOCH)
    assert init(machine, 7, LAST_EPOCH, fresh=8).reply == (8, 0)
    # It did not hear the answer.
    assert init(machine, 7, LAST_EPOCH, fresh=9).reply == (8, 0)
    assert init(machine, 7, LAST_EPOCH - 1).error == ErrorCode.PRODUCER_FENCED


def test_a_retry_at_the_last_epoch_gets_that() -> None:
    machine = initialised(LAST_EPOCH - 1)
    assert init(machine, 7, LAST_EPOCH - 1).reply == (7, LAST_EPOCH)
    assert init(machine, 7, LAST_EPOCH - 1).reply == (7, LAST_EPOCH)


# -- what belongs to the transaction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [EMPTY, COMPLETE_COMMIT, COMPLETE_ABORT])
def test_a_partition_begins_a_transaction(state: str) -> None:
    machine = in_state(state)
    step = add(machine, P1)
    assert kinds(step) == [("transaction", ONGOING)]
    assert step.timers == {"timeout": BEGIN_MS + TIMEOUT_MS, "expire": None}
    assert list(machine.partitions) == [P1]


def test_what_is_added_already_is_not_written_again() -> None:
    machine = in_state(ONGOING)
    assert add(machine, P0).records == []
    step = add(machine, P0, OTHER)
    assert list(machine.partitions) == [P0, OTHER]
    assert step.timers == {}
    assert machine.describe() == Description("t", ONGOING, 7, 0, TIMEOUT_MS, BEGIN_MS, (P0, OTHER), ())


def test_partitions_keep_the_offset_at_which_they_were_added() -> None:
    machine = initialised()
    machine.add_partitions(*HERE, [(*P0, 5)], version=3, steady_ms=BEGIN_MS)
    machine.produce(*HERE, [(*P0, 9), (*P1, 9)], version=12, steady_ms=BEGIN_MS)
    assert machine.partitions == {P0: 5, P1: 9}


def test_offsets_of_a_group_begin_a_transaction() -> None:
    machine = initialised()
    assert kinds(machine.add_offsets(*HERE, "g", version=3, steady_ms=BEGIN_MS)) == [("transaction", ONGOING)]
    assert machine.add_offsets(*HERE, "g", version=3, steady_ms=BEGIN_MS).records == []
    assert machine.groups == ("g",)


Request = Callable[[Transaction, int, int], int]
REQUESTS: dict[str, Request] = {
    "add partitions": lambda m, p, e: m.add_partitions(p, e, [(*P0, 0)], version=3, steady_ms=BEGIN_MS).error,
    "add partitions, old": lambda m, p, e: m.add_partitions(p, e, [(*P0, 0)], version=1, steady_ms=BEGIN_MS).error,
    "add offsets": lambda m, p, e: m.add_offsets(p, e, "g", version=2, steady_ms=BEGIN_MS).error,
    "add offsets, old": lambda m, p, e: m.add_offsets(p, e, "g", version=1, steady_ms=BEGIN_MS).error,
    "produce": lambda m, p, e: m.produce(p, e, [(*P0, 0)], version=12, steady_ms=BEGIN_MS).reply.get(P0, 0),
    "produce, old": lambda m, p, e: m.produce(p, e, [(*P0, 0)], version=11, steady_ms=BEGIN_MS).reply.get(P0, 0),
    "commit offsets": lambda m, p, e: m.commit_offsets(p, e, "g", [PENDING], version=5, steady_ms=BEGIN_MS).error,
    "end": lambda m, p, e: m.end(p, e, True, version=5, steady_ms=BEGIN_MS).error,
    "end, old": lambda m, p, e: m.end(p, e, True, version=2, steady_ms=BEGIN_MS).error,
    "end, very old": lambda m, p, e: m.end(p, e, True, version=1, steady_ms=BEGIN_MS).error,
    "verify": lambda m, p, e: m.verify_partitions(p, e, [P0])[P0],
}
FENCED_AS = {
    "add partitions, old": ErrorCode.INVALID_PRODUCER_EPOCH,
    "add offsets, old": ErrorCode.INVALID_PRODUCER_EPOCH,
    "produce": ErrorCode.INVALID_PRODUCER_EPOCH,
    "produce, old": ErrorCode.INVALID_PRODUCER_EPOCH,
    "commit offsets": ErrorCode.INVALID_PRODUCER_EPOCH,
    "end, very old": ErrorCode.INVALID_PRODUCER_EPOCH,
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("epoch", [-1, 0, 2, 32_767])
def test_another_epoch_is_fenced(name: str, epoch: int) -> None:
    machine = initialised()
    init(machine)
    add(machine)
    stored = machine.records_of_state()
    assert REQUESTS[name](machine, 7, epoch) == FENCED_AS.get(name, ErrorCode.PRODUCER_FENCED)
    assert machine.records_of_state() == stored


@pytest.mark.parametrize("name", REQUESTS)
def test_another_producer_is_unknown(name: str) -> None:
    machine = in_state(ONGOING)
    assert REQUESTS[name](machine, 8, 0) == ErrorCode.INVALID_PRODUCER_ID_MAPPING
    assert REQUESTS[name](new(), -1, -1) == ErrorCode.INVALID_PRODUCER_ID_MAPPING


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("state", [PREPARE_COMMIT, PREPARE_ABORT])
def test_while_a_transaction_ends_all_have_to_wait(name: str, state: str) -> None:
    machine = in_state(state)
    code = REQUESTS[name](machine, machine.producer_id, machine.producer_epoch)
    assert code == (ErrorCode.NOT_ENOUGH_REPLICAS if name == "produce, old" else ErrorCode.CONCURRENT_TRANSACTIONS)


def test_a_dead_id_answers_nothing() -> None:
    machine = in_state(DEAD)
    assert add(machine).error == ErrorCode.CONCURRENT_TRANSACTIONS
    assert init(machine, fresh=9).error == ErrorCode.CONCURRENT_TRANSACTIONS
    assert machine.records_of_state() == []


@pytest.mark.parametrize(("version", "code"), [(3, ErrorCode.INVALID_TXN_STATE), (11, ErrorCode.TRANSACTION_ABORTABLE)])
def test_older_produce_needs_partitions_that_were_added(version: int, code: int) -> None:
    machine = in_state(ONGOING)
    step = machine.produce(*HERE, [(*P0, 0), (*P1, 0)], version=version, steady_ms=BEGIN_MS)
    assert (step.reply, step.records) == ({P1: code}, [])


def test_produce_registers_partitions() -> None:
    machine = in_state(COMPLETE_COMMIT)
    producer = (machine.producer_id, machine.producer_epoch)
    step = machine.produce(*producer, [(*P0, 3), (*P1, 4)], version=12, steady_ms=BEGIN_MS)
    assert (step.error, step.reply, kinds(step)) == (0, {}, [("transaction", ONGOING)])
    assert machine.partitions == {P0: 3, P1: 4}
    assert machine.produce(*producer, [(*P1, 9)], version=12, steady_ms=BEGIN_MS).records == []


def test_verification_tells_each_partition() -> None:
    machine = in_state(ONGOING)
    assert machine.verify_partitions(*HERE, [P0, P1]) == {P0: 0, P1: ErrorCode.TRANSACTION_ABORTABLE}


@pytest.mark.parametrize(("version", "code"), [(3, ErrorCode.INVALID_TXN_STATE), (4, ErrorCode.TRANSACTION_ABORTABLE)])
def test_older_offset_commits_need_a_group_that_was_added(version: int, code: int) -> None:
    machine = in_state(ONGOING)
    assert machine.commit_offsets(*HERE, "g", [PENDING], version=version, steady_ms=BEGIN_MS).error == code
    machine.add_offsets(*HERE, "g", version=3, steady_ms=BEGIN_MS)
    assert machine.check_offsets(*HERE, "g", version=version) == 0
    step = machine.commit_offsets(*HERE, "g", [PENDING], version=version, steady_ms=BEGIN_MS)
    assert [record.key for record in step.records] == ["g\n1\n0"]
    assert list(machine.pending.values()) == [PENDING]


def test_an_offset_commit_registers_its_group() -> None:
    machine = initialised()
    step = machine.commit_offsets(*HERE, "g", [PENDING], version=5, steady_ms=BEGIN_MS)
    assert [record.kind for record in step.records] == ["transaction", "offset"]
    later = PENDING._replace(offset=6)
    machine.commit_offsets(*HERE, "g", [later], version=5, steady_ms=BEGIN_MS)
    assert end(machine).decision == end_of(machine, commit=True, offsets=(later,))


def end_of(machine: Transaction, *, commit: bool, offsets: tuple[PendingOffset, ...] = ()) -> Any:
    return Decision(commit, machine.producer_id, machine.producer_epoch, tuple(machine.partitions), offsets)


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize(("version", "epoch"), [(5, 1), (4, 0)])
def test_an_end_decides_and_completes(commit: bool, version: int, epoch: int) -> None:
    machine = in_state(ONGOING)
    machine.commit_offsets(*HERE, "g", [PENDING], version=5, steady_ms=BEGIN_MS)
    step = end(machine, commit, version=version)
    assert step.reply == (7, epoch)
    assert kinds(step) == [("transaction", PREPARE_COMMIT if commit else PREPARE_ABORT)]
    assert step.decision == end_of(machine, commit=commit, offsets=(PENDING,))
    assert step.decision is not None
    assert (step.decision.producer_epoch, step.decision.partitions) == (epoch, (P0,))
    assert step.timers == {"timeout": None, "expire": None}
    done = machine.ended(BEGIN_MS + 5)
    assert kinds(done) == [("transaction", COMPLETE_COMMIT if commit else COMPLETE_ABORT), ("offset", None)]
    assert done.timers["expire"] == BEGIN_MS + 5 + SETTINGS.transactional_id_expiration_ms
    assert (machine.partitions, machine.groups, machine.pending) == ({}, (), {})
    assert machine.describe().started_ms == BEGIN_MS


def test_an_end_that_is_not_under_way_cannot_be_done() -> None:
    with pytest.raises(KeyError):
        in_state(ONGOING).ended(BEGIN_MS)


ENDS = [
    # state, which epoch (0: the current one, -1: the one before), commit, code of version 5, whether that ends, of version 4
    (EMPTY, 0, True, ErrorCode.INVALID_TXN_STATE, False, ErrorCode.INVALID_TXN_STATE),
    (EMPTY, 0, False, 0, True, ErrorCode.INVALID_TXN_STATE),
    (EMPTY, -1, True, ErrorCode.PRODUCER_FENCED, False, ErrorCode.PRODUCER_FENCED),
    (EMPTY, -1, False, ErrorCode.PRODUCER_FENCED, False, ErrorCode.PRODUCER_FENCED),
    (COMPLETE_COMMIT, 0, True, ErrorCode.INVALID_TXN_STATE, False, 0),
    (COMPLETE_COMMIT, 0, False, 0, True, ErrorCode.INVALID_TXN_STATE),
    (COMPLETE_COMMIT, -1, True, 0, False, ErrorCode.PRODUCER_FENCED),
    (COMPLETE_COMMIT, -1, False, ErrorCode.INVALID_TXN_STATE, False, ErrorCode.PRODUCER_FENCED),
    (COMPLETE_ABORT, 0, True, ErrorCode.INVALID_TXN_STATE, False, ErrorCode.INVALID_TXN_STATE),
    (COMPLETE_ABORT, 0, False, 0, True, 0),
    (COMPLETE_ABORT, -1, True, ErrorCode.INVALID_TXN_STATE, False, ErrorCode.PRODUCER_FENCED),
    (COMPLETE_ABORT, -1, False, 0, False, ErrorCode.PRODUCER_FENCED),
]


@pytest.mark.parametrize(("state", "which", "commit", "code", "ends", "older"), ENDS)
def test_ends_where_nothing_is_open(state: str, which: int, commit: bool, code: int, ends: bool, older: int) -> None:
    machine = in_state(state)
    epoch = machine.producer_epoch
    step = machine.end(7, epoch + which, commit, version=4, steady_ms=BEGIN_MS)
    assert (step.error, step.records, step.decision) == (older, [], None)
    step = machine.end(7, epoch + which, commit, version=5, steady_ms=BEGIN_MS)
    assert step.error == code
    assert (step.decision is not None) == ends
    if ends:
        assert step.reply == (7, epoch + 1)
        assert step.decision == end_of(machine, commit=False)
        assert machine.state == PREPARE_ABORT
    else:
        assert step.reply == ((-1, -1) if code else (7, epoch))
        assert step.records == []


def test_an_end_at_the_last_epoch_brings_another_producer_id() -> None:
    machine = initialised(LAST_EPOCH)
    add(machine)
    step = end(machine, fresh=8)
    assert step.reply == (8, 0)
    assert step.decision is not None
    assert (step.decision.producer_id, step.decision.producer_epoch) == (7, LAST_EPOCH + 1)
    machine.ended(BEGIN_MS)
    assert (machine.producer_id, machine.producer_epoch) == (8, 0)
    retry = machine.end(7, LAST_EPOCH, True, version=5, steady_ms=BEGIN_MS)
    assert (retry.error, retry.reply, retry.records) == (0, (8, 0), [])
    other = machine.end(7, LAST_EPOCH, False, version=5, steady_ms=BEGIN_MS)
    assert other.error == ErrorCode.INVALID_TXN_STATE
    add(machine)
    late = machine.end(7, LAST_EPOCH, True, version=5, steady_ms=BEGIN_MS)
    assert late.error == ErrorCode.INVALID_PRODUCER_ID_MAPPING


def test_an_older_end_at_the_last_epoch_leaves_the_producer_id() -> None:
    machine = initialised(LAST_EPOCH)
    add(machine)
    assert end(machine, version=4).reply == (7, LAST_EPOCH)


def test_a_producer_is_not_taken_for_the_one_that_came_before() -> None:
    """A newer client is replaced by an older one, whose ends leave the epoch as it is."""
    machine = initialised()
    init(machine)
    add(machine)
    end(machine, version=4)
    machine.ended(BEGIN_MS)
    assert machine.end(7, 0, True, version=5, steady_ms=BEGIN_MS).error == ErrorCode.PRODUCER_FENCED


# -- timers, operators, topics -----------------------------------------------------------------------------------------


def test_a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced() -> None:
    machine = in_state(ONGOING)
    early = machine.on_timer("timeout", BEGIN_MS + TIMEOUT_MS - 1)
    assert (early.records, early.timers) == ([], {"timeout": BEGIN_MS + TIMEOUT_MS})
    step = machine.on_timer("timeout", BEGIN_MS + TIMEOUT_MS)
    assert step.decision is not None
    assert (step.decision.commit, step.decision.is_timeout, step.decision.producer_epoch) == (False, True, 1)
    machine.ended(BEGIN_MS + TIMEOUT_MS)
    late = machine.produce(*HERE, [(*P0, 0)], version=12, steady_ms=BEGIN_MS)
    assert late.reply == {P0: ErrorCode.INVALID_PRODUCER_EPOCH}
    # It goes on with the epoch that it was fenced with.
    assert init(machine, *HERE).reply == (7, 1)


def test_what_a_producer_hears_of_the_end_that_came_before_its_own() -> None:
    machine = in_state(ONGOING)
    machine.on_timer("timeout", BEGIN_MS + TIMEOUT_MS)
    machine.ended(BEGIN_MS)
    assert machine.end(*HERE, True, version=5, steady_ms=BEGIN_MS).error == ErrorCode.INVALID_TXN_STATE
    assert machine.end(*HERE, False, version=5, steady_ms=BEGIN_MS).reply == (7, 1)
    assert machine.end(*HERE, True, version=4, steady_ms=BEGIN_MS).error == ErrorCode.PRODUCER_FENCED


def test_a_timeout_at_the_last_epoch_brings_another_producer_id() -> None:
    machine = initialised(LAST_EPOCH)
    add(machine)
    machine.on_timer("timeout", BEGIN_MS + TIMEOUT_MS, fresh_producer_id=8)
    machine.ended(BEGIN_MS)
    assert init(machine, 7, LAST_EPOCH).reply == (8, 0)


@pytest.mark.parametrize("state", [EMPTY, COMPLETE_COMMIT, COMPLETE_ABORT])
def test_an_id_expires_when_it_is_not_used(state: str) -> None:
    machine = in_state(state)
    step = machine.on_timer("expire", BEGIN_MS + SETTINGS.transactional_id_expiration_ms)
    assert (step.is_dead, step.records) == (True, [Record("transaction", "", None)])
    assert machine.state == DEAD


@pytest.mark.parametrize("state", [ONGOING, PREPARE_COMMIT, PREPARE_ABORT])
def test_an_id_that_is_used_does_not_expire(state: str) -> None:
    step = in_state(state).on_timer("expire", BEGIN_MS + 10 * SETTINGS.transactional_id_expiration_ms)
    assert (step.is_dead, step.records, step.timers) == (False, [], {})


def test_an_operator_aborts_what_is_open() -> None:
    machine = in_state(ONGOING)
    step = machine.abort(BEGIN_MS)
    assert step.decision is not None
    assert (step.decision.commit, step.decision.by_operator, step.decision.producer_epoch) == (False, True, 1)
    assert machine.abort(BEGIN_MS).error == ErrorCode.CONCURRENT_TRANSACTIONS
    machine.ended(BEGIN_MS)
    assert machine.abort(BEGIN_MS).error == ErrorCode.INVALID_TXN_STATE


def test_a_deleted_topic_is_left_out() -> None:
    machine = initialised()
    add(machine, P0, P1, OTHER)
    offsets = [PENDING, PENDING._replace(topic_id=2)]
    machine.commit_offsets(*HERE, "g", offsets, version=5, steady_ms=BEGIN_MS)
    step = machine.forget_topic(1)
    assert kinds(step) == [("transaction", ONGOING), ("offset", None)]
    assert machine.forget_topic(1).records == []
    decision = end(machine).decision
    assert decision is not None
    assert (decision.partitions, decision.offsets) == ((OTHER,), (offsets[1],))


def test_deleted_offsets_of_a_group_are_left_out() -> None:
    machine = initialised()
    more = [PENDING, PENDING._replace(partition=1), PENDING._replace(topic_id=2)]
    machine.commit_offsets(*HERE, "g", more, version=5, steady_ms=BEGIN_MS)
    assert machine.forget_offsets("h", None).records == []
    assert len(machine.forget_offsets("g", [P1]).records) == 1
    assert list(machine.pending.values()) == [more[0], more[2]]
    assert len(machine.forget_offsets("g", None).records) == 2
    machine.commit_offsets(*HERE, "g", more, version=5, steady_ms=BEGIN_MS)
    end(machine)
    assert machine.forget_offsets("g", None).records == []


# -- what is stored ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [EMPTY, ONGOING, PREPARE_COMMIT, PREPARE_ABORT, COMPLETE_COMMIT, COMPLETE_ABORT])
def test_a_restart_goes_on(state: str) -> None:
    machine = in_state(state)
    if state == ONGOING:
        machine.commit_offsets(*HERE, "g", [PENDING], version=5, steady_ms=BEGIN_MS)
    loaded = new()
    for record in machine.records_of_state():
        loaded.apply(record)
    for name in Transaction.__slots__:
        assert getattr(loaded, name) == getattr(machine, name), name
    step = loaded.restart(BEGIN_MS + 1, BEGIN_MS + 1)
    assert (step.decision is not None) == machine.is_prepared
    if step.decision is not None:
        assert step.decision == end_of(machine, commit=state == PREPARE_COMMIT)
    deadlines = {name for name, deadline_ms in step.timers.items() if deadline_ms is not None}
    assert deadlines == ({"timeout"} if state == ONGOING else set() if machine.is_prepared else {"expire"})


HOUR_MS = 3_600_000
MINUTE_MS = 60_000


def restarted(known_ms: int, jump_ms: int, timeout_ms: int = MINUTE_MS) -> tuple[Transaction, Step, int]:
    """A transaction that has been open for so long as it was stored last, under a broker whose clock is elsewhere."""
    machine = new()
    machine.init_producer(-1, -1, timeout_ms, fresh_producer_id=7, version=5, steady_ms=BEGIN_MS)
    machine.add_partitions(7, 0, [(1, 0, 0)], version=3, steady_ms=BEGIN_MS)
    machine.add_partitions(7, 0, [(1, 1, 0)], version=3, steady_ms=BEGIN_MS + known_ms)
    loaded = new()
    for record in machine.records_of_state():
        loaded.apply(record)
    began_ms = BEGIN_MS + known_ms + jump_ms
    return loaded, loaded.restart(began_ms, began_ms), began_ms


@pytest.mark.parametrize(
    ("jump_ms", "left_ms"),
    [
        (0, 50_000),
        (5_000, 45_000),  # what the clock says
        (30_000, 20_000),
        (30_001, 20_000),  # half of the timeout at most
        (HOUR_MS, 20_000),
        (-1, 50_000),
        (-HOUR_MS, 50_000),  # none
    ],
)
def test_a_clock_that_jumps_over_a_restart_moves_a_timeout_within_bounds(jump_ms: int, left_ms: int) -> None:
    machine, step, began_ms = restarted(10_000, jump_ms)
    assert step.timers["timeout"] == began_ms + left_ms
    assert machine.on_timer("timeout", began_ms + left_ms - 1).decision is None
    assert machine.on_timer("timeout", began_ms + left_ms).decision is not None


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_what_has_passed_adds_up_over_restarts(jump_ms: int) -> None:
    """So a broker that is restarted all the time ends a transaction all the same."""
    machine, first, steady_ms = restarted(10_000, jump_ms)
    assert [record.value["started_ms"] for record in first.records if record.value] == [machine.started_ms]
    left_ms = (first.timers["timeout"] or 0) - steady_ms
    for _ in range(3):
        again = new()
        for record in machine.records_of_state():
            again.apply(record)
        machine, steady_ms = again, steady_ms + 6_000
        step = machine.restart(steady_ms, steady_ms)
        left_ms -= 6_000
        assert (step.timers["timeout"], step.records) == (steady_ms + left_ms, [])


def test_a_broker_s_own_times_count_when_it_loads_again() -> None:
    machine, _, began_ms = restarted(0, 0)
    machine.add_partitions(7, 0, [(1, 2, 0)], version=3, steady_ms=began_ms + 1_000)
    step = machine.restart(began_ms + 50_000, began_ms)
    assert (step.timers["timeout"], step.records) == (BEGIN_MS + MINUTE_MS, [])
    untouched, _, began_ms = restarted(0, HOUR_MS)
    assert untouched.restart(began_ms + 20_000, began_ms).timers["timeout"] == began_ms + MINUTE_MS // 2


def test_an_id_is_not_forgotten_at_once_when_a_broker_starts() -> None:
    """A clock that is ahead must not take the ids of producers that live; those come back within moments."""
    machine = in_state(COMPLETE_COMMIT)
    expiration_ms = machine.settings.transactional_id_expiration_ms
    for jump_ms in (0, 10 * expiration_ms):
        began_ms = BEGIN_MS + jump_ms
        deadline_ms = machine.restart(began_ms, began_ms).timers["expire"]
        assert deadline_ms is not None and deadline_ms >= began_ms + HOLD_AFTER_START_MS


def test_the_table_of_transitions_names_each_state() -> None:
    states = {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values())
    assert states == {EMPTY, ONGOING, PREPARE_COMMIT, PREPARE_ABORT, COMPLETE_COMMIT, COMPLETE_ABORT, DEAD}
    assert {event for _, event in TRANSITIONS} == {"init", "register", "commit", "abort", "ended", "expire"}
