"""One transactional id: who its producer is, and what belongs to the open transaction.

Pure (see transaction_steps). The behaviour is that of Apache Kafka 4.4's transaction coordinator with the feature
transaction.version at 2; KIP numbers stand where a rule comes from. Requests of versions below those of KIP-890
(Produce 12, TxnOffsetCommit 5, EndTxn 5) follow the older rules, side by side with the newer.

| state          | InitProducerId        | Produce, Add..., offsets | EndTxn, older      | EndTxn 5 and above   |
|----------------|-----------------------|--------------------------|--------------------|----------------------|
| Empty          | a new epoch           | -> Ongoing (1)           | INVALID_TXN_STATE  | abort: ends (2) (3)  |
| Ongoing        | aborts, CONCURRENT_...| registered               | ends               | ends, new epoch      |
| Prepare...     | CONCURRENT_...        | CONCURRENT_... (4)       | CONCURRENT_...     | CONCURRENT_...       |
| CompleteCommit | a new epoch           | -> Ongoing (1)           | commit: NONE (3)   | as Empty; a retry (5)|
| CompleteAbort  | a new epoch           | -> Ongoing (1)           | abort: NONE (3)    | as Empty; a retry (5)|
| Dead           | CONCURRENT_...        | CONCURRENT_...           | CONCURRENT_...     | CONCURRENT_...       |

(1) older Produce and TxnOffsetCommit register nothing; what was not added before is INVALID_TXN_STATE, or
    TRANSACTION_ABORTABLE where the version knows that.
(2) with nothing to end but the epoch, so that nothing that is still on its way can begin a transaction.
(3) the other decision is INVALID_TXN_STATE.
(4) older Produce: NOT_ENOUGH_REPLICAS, on which older producers try again.
(5) with the epoch before: NONE for the same decision, otherwise INVALID_TXN_STATE.

Before the state comes the producer: another id is INVALID_PRODUCER_ID_MAPPING, another epoch PRODUCER_FENCED; that is
INVALID_PRODUCER_EPOCH for Produce, TxnOffsetCommit and clients from before KIP-588. In Prepare... it comes after.

A transaction that takes too long, or that an operator or a new producer aborts, ends as by EndTxn 5: with the next
epoch, so that its producer is fenced. It may go on by InitProducerId with its old epoch (KIP-360, KIP-588), unless
another has taken its place. The epoch 32766 is the last one that a client gets: then comes a new producer id.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from pg_kafka.coordinator.records import Record
from pg_kafka.coordinator.transaction_steps import (
    COMPLETE_ABORT,
    COMPLETE_COMMIT,
    DEAD,
    EMPTY,
    NO_PRODUCER,
    ONGOING,
    PREPARE_ABORT,
    PREPARE_COMMIT,
    PRODUCE_REGISTERS,
    Decision,
    Description,
    PendingOffset,
    Registration,
    Step,
    TopicPartition,
    TransactionSettings,
)
from pg_kafka.wire.error_codes import ErrorCode

TRANSITIONS: Final[Mapping[tuple[str, str], str]] = {
    (EMPTY, "init"): EMPTY,  # InitProducerId
    (COMPLETE_COMMIT, "init"): EMPTY,
    (COMPLETE_ABORT, "init"): EMPTY,
    (EMPTY, "register"): ONGOING,  # a partition or a group's offsets are added, or produced to (KIP-890)
    (COMPLETE_COMMIT, "register"): ONGOING,
    (COMPLETE_ABORT, "register"): ONGOING,
    (ONGOING, "register"): ONGOING,
    (ONGOING, "commit"): PREPARE_COMMIT,  # decided
    (ONGOING, "abort"): PREPARE_ABORT,  # by EndTxn, a new producer, the timeout or an operator
    (EMPTY, "abort"): PREPARE_ABORT,  # EndTxn 5 where nothing was registered: only the epoch changes
    (COMPLETE_COMMIT, "abort"): PREPARE_ABORT,
    (COMPLETE_ABORT, "abort"): PREPARE_ABORT,
    (PREPARE_COMMIT, "ended"): COMPLETE_COMMIT,  # markers and offsets are written
    (PREPARE_ABORT, "ended"): COMPLETE_ABORT,
    (EMPTY, "expire"): DEAD,  # unused for transactional.id.expiration.ms
    (COMPLETE_COMMIT, "expire"): DEAD,
    (COMPLETE_ABORT, "expire"): DEAD,
}

LAST_EPOCH: Final = 32_766
"""The highest epoch that a client gets: one more must be there to fence it with."""

HOLD_AFTER_START_MS: Final = 900_000
"""No id is forgotten so soon after a start, unless it may be forgotten sooner anyway: a clock that is ahead must not
take those of producers that live."""

PRODUCE_KNOWS_ABORTABLE: Final = 11
OFFSET_COMMIT_REGISTERS: Final = 5  # and TxnOffsetCommit groups
OFFSET_COMMIT_KNOWS_ABORTABLE: Final = 4
END_BUMPS_EPOCH: Final = 5  # EndTxn
ADD_PARTITIONS_BY_BROKERS: Final = 4
INIT_KNOWS_FENCED: Final = 4  # InitProducerId from this version on knows PRODUCER_FENCED (KIP-588)
KNOWS_FENCED: Final = 2  # AddPartitionsToTxn, AddOffsetsToTxn and EndTxn

_AT_REST: Final = (EMPTY, COMPLETE_COMMIT, COMPLETE_ABORT)
_PREPARED: Final = (PREPARE_COMMIT, PREPARE_ABORT)
_BUSY: Final = (*_PREPARED, DEAD)


class Transaction:
    """One transactional id. Attributes without an underscore may be read by all, and are changed by `apply` only."""

    __slots__ = (
        "_last_epoch",
        "_next_producer_id",
        "_previous_producer_id",
        "_updated_ms",
        "_version",
        "groups",
        "partitions",
        "pending",
        "producer_epoch",
        "producer_id",
        "settings",
        "started_ms",
        "state",
        "timeout_ms",
        "transactional_id",
    )

    def __init__(self, transactional_id: str, settings: TransactionSettings) -> None:
        self.transactional_id = transactional_id
        self.settings = settings
        self.state = EMPTY
        self.producer_id, self.producer_epoch = NO_PRODUCER
        self.timeout_ms = 0
        self.started_ms = -1
        self.partitions: dict[TopicPartition, int] = {}  # with the lower bound of what the transaction holds back
        self.groups: tuple[str, ...] = ()
        self.pending: dict[str, PendingOffset] = {}  # by the record's key
        self._last_epoch = -1  # of this producer before its epoch was raised for itself
        self._previous_producer_id = -1  # before the last transition
        self._next_producer_id = -1  # after an ending whose epoch is the last one
        self._updated_ms = -1
        self._version = 0  # of transactions, as the client that made the last transition has it: 0, 1 or 2

    # -- what is stored ----------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        """Change the state as the record says; the same when it happens and when it is loaded."""
        value = record.value
        if record.kind == "offset":
            if value is None:
                self.pending.pop(record.key, None)
            else:
                self.pending[record.key] = PendingOffset.of(value)
        elif value is None:
            self.state = DEAD
        else:
            self.state = value["state"]
            self.producer_id = value["producer_id"]
            self.producer_epoch = value["producer_epoch"]
            self.timeout_ms = value["timeout_ms"]
            self.started_ms = value["started_ms"]
            self.partitions = {(topic_id, index): offset for topic_id, index, offset in value["partitions"]}
            self.groups = tuple(value["groups"])
            self._last_epoch = value["last_producer_epoch"]
            self._previous_producer_id = value["previous_producer_id"]
            self._next_producer_id = value["next_producer_id"]
            self._updated_ms = value["updated_ms"]
            self._version = value["version"]

    def records_of_state(self) -> list[Record]:
        """The records that give this state to a new machine."""
        if self.is_blank or self.state == DEAD:
            return []
        return [Record("transaction", "", self._value()), *(offset.record() for offset in self.pending.values())]

    def _value(self) -> dict[str, Any]:
        return {
            "producer_id": self.producer_id,
            "producer_epoch": self.producer_epoch,
            "last_producer_epoch": self._last_epoch,
            "previous_producer_id": self._previous_producer_id,
            "next_producer_id": self._next_producer_id,
            "state": self.state,
            "timeout_ms": self.timeout_ms,
            "started_ms": self.started_ms,
            "updated_ms": self._updated_ms,
            "version": self._version,
            "partitions": [[topic_id, index, offset] for (topic_id, index), offset in self.partitions.items()],
            "groups": list(self.groups),
        }

    # -- for the edge ------------------------------------------------------------------------------------------------

    @property
    def is_blank(self) -> bool:
        """Nothing is stored: no producer was ever initialised."""
        return self.producer_epoch < 0

    @property
    def needs_producer_id(self) -> bool:
        """The next InitProducerId, end or timeout may need a `fresh_producer_id`."""
        return self.is_blank or self.producer_epoch >= LAST_EPOCH

    @property
    def is_prepared(self) -> bool:
        """A decision is made, and not yet carried out."""
        return self.state in _PREPARED

    def restart(self, steady_ms: int, began_ms: int) -> Step:
        """Begin to serve what was loaded: an ending that was decided is carried out, timers go on.

        What was stored before the broker began, at `began_ms`, has times of a clock that may have been set since.
        """
        out = Step()
        if self.is_prepared:
            out.decision = self._decision()
        if self.state == ONGOING and not began_ms <= self._updated_ms <= steady_ms:
            self._go_on(out, steady_ms, began_ms)
        self._set_timers(out)
        expires_ms = out.timers["expire"]
        if expires_ms is not None:
            hold_ms = min(HOLD_AFTER_START_MS, self.settings.transactional_id_expiration_ms)
            out.timers["expire"] = max(expires_ms, began_ms + hold_ms)
        return out

    def _go_on(self, out: Step, steady_ms: int, began_ms: int) -> None:
        """Count how long the transaction has been open: what is known of it counts whole, and what the clock says has
        passed since then up to half of the timeout. So a clock that was set back holds readers up for no longer than
        the timeout, and one that is ahead does not abort what a producer goes on with."""
        known_ms = max(self._updated_ms - self.started_ms, 0)
        told_ms = min(max(began_ms - self.started_ms, known_ms), known_ms + self.timeout_ms // 2)
        started_ms = began_ms - told_ms
        if started_ms != self.started_ms:
            times = {"started_ms": started_ms, "updated_ms": steady_ms}
            self._write(out, Record("transaction", "", self._value() | times))

    def on_timer(self, name: str, steady_ms: int, *, fresh_producer_id: int | None = None) -> Step:
        """A deadline has passed: "timeout" or "expire"."""
        out = Step()
        deadline_ms = self._deadline_ms(name)
        if deadline_ms is None:
            return out
        if steady_ms < deadline_ms:  # a clock that was set back
            out.timers[name] = deadline_ms
        elif name == "timeout":
            self._prepare(out, "abort", steady_ms, fresh_producer_id, bumps=True)
            out.decision = self._decision(is_timeout=True)
        else:
            self._write(out, Record("transaction", "", None))
            out.timers = {"timeout": None, "expire": None}
            out.is_dead = True
        return out

    def abort(self, steady_ms: int, *, fresh_producer_id: int | None = None) -> Step:
        """An operator ends the open transaction; its producer is fenced. INVALID_TXN_STATE when there is none."""
        out = Step()
        if self.state == ONGOING:
            self._prepare(out, "abort", steady_ms, fresh_producer_id, bumps=True)
            out.decision = self._decision(by_operator=True)
        else:
            out.error = ErrorCode.CONCURRENT_TRANSACTIONS if self.is_prepared else ErrorCode.INVALID_TXN_STATE
        return out

    def ended(self, steady_ms: int) -> Step:
        """The decision is carried out, or will be in the same commit as the records of this step."""
        out = Step()
        producer = self._client_producer()
        self._transit(
            out,
            "ended",
            steady_ms,
            producer_id=producer[0],
            producer_epoch=producer[1],
            next_producer_id=-1,
            partitions=[],
            groups=[],
        )
        for key in list(self.pending):
            self._write(out, Record("offset", key, None))
        return out

    def forget_topic(self, topic_id: int) -> Step:
        """A topic was deleted: it needs no marker, and offsets in it are of no use."""
        out = Step()
        left = [[*partition, offset] for partition, offset in self.partitions.items() if partition[0] != topic_id]
        if len(left) < len(self.partitions):
            self._write(out, Record("transaction", "", {**self._value(), "partitions": left}))
        for key, offset in list(self.pending.items()):
            if offset.topic_id == topic_id:
                self._write(out, Record("offset", key, None))
        return out

    def forget_offsets(self, group_id: str, keys: Collection[TopicPartition] | None) -> Step:
        """A group's offsets were deleted, all when no keys are given: those that wait for the end are deleted too."""
        out = Step()
        for key, offset in list(self.pending.items()) if not self.is_prepared else ():
            if offset.group == group_id and (keys is None or (offset.topic_id, offset.partition) in keys):
                self._write(out, Record("offset", key, None))
        return out

    def describe(self) -> Description:
        """What an administrator sees."""
        return Description(
            self.transactional_id,
            self.state,
            self.producer_id,
            self.producer_epoch,
            self.timeout_ms,
            self.started_ms,
            tuple(self.partitions),
            self.groups,
        )

    # -- InitProducerId ----------------------------------------------------------------------------------------------

    def init_producer(
        self,
        producer_id: int,
        epoch: int,
        timeout_ms: int,
        *,
        fresh_producer_id: int | None,
        version: int,
        enable_2pc: bool = False,
        keep_prepared: bool = False,
        steady_ms: int,
    ) -> Step:
        """A producer begins, or begins again: the reply is its id and epoch.

        A producer that has them names them, -1 otherwise (KIP-360). An open transaction is aborted, and the producer
        asks again when it is told CONCURRENT_TRANSACTIONS.
        """
        expected = (producer_id, epoch) if (producer_id, epoch) != NO_PRODUCER else None
        error = self._refuse_init(expected, timeout_ms, version, enable_2pc, keep_prepared)
        out = Step(error, reply=NO_PRODUCER)
        if error:
            return out
        if self.state == ONGOING:
            self._prepare(out, "abort", steady_ms, fresh_producer_id, bumps=True)
            out.decision = self._decision()
            out.error = ErrorCode.CONCURRENT_TRANSACTIONS
            return out
        producer = self._next_producer(expected, fresh_producer_id)
        if producer is None:
            out.error = _fenced(version >= INIT_KNOWS_FENCED)
            return out
        self._transit(
            out,
            "init",
            steady_ms,
            producer_id=producer[0],
            producer_epoch=producer[1],
            last_producer_epoch=producer[2],
            timeout_ms=timeout_ms,
            started_ms=-1,
        )
        out.reply = producer[:2]
        return out

    def _refuse_init(
        self, expected: tuple[int, int] | None, timeout_ms: int, version: int, enable_2pc: bool, keep_prepared: bool
    ) -> int:
        # Two-phase commit by the client (KIP-939) is off, as it is in Kafka unless it is enabled.
        if enable_2pc:
            return ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        if keep_prepared:
            return ErrorCode.UNSUPPORTED_VERSION
        if not 0 < timeout_ms <= self.settings.transaction_max_timeout_ms:
            return ErrorCode.INVALID_TRANSACTION_TIMEOUT
        if self.state in _BUSY:
            return ErrorCode.CONCURRENT_TRANSACTIONS
        if expected is None or self.is_blank or expected[0] == self.producer_id:
            return ErrorCode.NONE
        # A retry after the epochs were exhausted, by a producer that has not heard of its new id.
        if expected[0] == self._previous_producer_id and expected[1] >= LAST_EPOCH:
            return ErrorCode.NONE
        return _fenced(version >= INIT_KNOWS_FENCED)

    def _next_producer(
        self, expected: tuple[int, int] | None, fresh_producer_id: int | None
    ) -> tuple[int, int, int] | None:
        """Id, epoch, and the epoch that the same producer had before or -1; None: it is fenced."""
        epoch = self.producer_epoch
        if self.is_blank:
            return _need(fresh_producer_id), 0, -1
        if expected is None or expected[1] == epoch:
            last_epoch = -1 if expected is None else epoch
            if epoch >= LAST_EPOCH:
                return _need(fresh_producer_id), 0, last_epoch
            return self.producer_id, epoch + 1, last_epoch
        # A retry: were there another producer by now, the last epoch would not be known.
        return (self.producer_id, epoch, self._last_epoch) if expected[1] == self._last_epoch else None

    # -- what belongs to the transaction -----------------------------------------------------------------------------

    def add_partitions(
        self, producer_id: int, epoch: int, partitions: Sequence[Registration], *, version: int, steady_ms: int
    ) -> Step:
        """AddPartitionsToTxn: they belong to the transaction, which begins when there is none."""
        error = self._refuse(producer_id, epoch, _fenced(version >= KNOWS_FENCED))
        out = Step(error)
        if not error:
            self._register(out, partitions, (), 2 if version >= ADD_PARTITIONS_BY_BROKERS else 0, steady_ms)
        return out

    def verify_partitions(
        self, producer_id: int, epoch: int, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """AddPartitionsToTxn 4 with verify_only: the error code of each partition."""
        error = self._verify(producer_id, epoch, ErrorCode.PRODUCER_FENCED)
        missing = ErrorCode.TRANSACTION_ABORTABLE
        return {each: error or (0 if each in self.partitions else missing) for each in partitions}

    def add_offsets(self, producer_id: int, epoch: int, group_id: str, *, version: int, steady_ms: int) -> Step:
        """AddOffsetsToTxn: offsets of the group belong to the transaction, which begins when there is none."""
        error = self._refuse(producer_id, epoch, _fenced(version >= KNOWS_FENCED))
        out = Step(error)
        if not error:
            self._register(out, (), (group_id,), 0, steady_ms)
        return out

    def produce(
        self, producer_id: int, epoch: int, partitions: Sequence[Registration], *, version: int, steady_ms: int
    ) -> Step:
        """A Produce request with transactional batches.

        The reply holds the error code of each partition that may not be written to. The records must be committed
        before the batches are, or with them, and an ending must not come in between: an open transaction that is not
        registered would never end. So batches are queued behind the records at once, or the machine is asked again.
        """
        registers = version >= PRODUCE_REGISTERS
        error = self._verify(producer_id, epoch, ErrorCode.INVALID_PRODUCER_EPOCH)
        if error == ErrorCode.CONCURRENT_TRANSACTIONS and not registers:
            error = ErrorCode.NOT_ENOUGH_REPLICAS
        out = Step(error, reply={})
        if error:
            out.reply = {(topic_id, index): error for topic_id, index, _ in partitions}
        elif registers:
            self._register(out, partitions, (), 2, steady_ms)
        else:
            knows_abortable = version >= PRODUCE_KNOWS_ABORTABLE
            missing = ErrorCode.TRANSACTION_ABORTABLE if knows_abortable else ErrorCode.INVALID_TXN_STATE
            out.reply = {
                (topic_id, index): missing
                for topic_id, index, _ in partitions
                if (topic_id, index) not in self.partitions
            }
        return out

    def check_offsets(self, producer_id: int, epoch: int, group_id: str, *, version: int) -> int:
        """What `commit_offsets` would answer; Kafka looks at the transaction before it looks at the group's member."""
        error = self._verify(producer_id, epoch, ErrorCode.INVALID_PRODUCER_EPOCH)
        if error or version >= OFFSET_COMMIT_REGISTERS or group_id in self.groups:
            return error
        knows_abortable = version >= OFFSET_COMMIT_KNOWS_ABORTABLE
        return ErrorCode.TRANSACTION_ABORTABLE if knows_abortable else ErrorCode.INVALID_TXN_STATE

    def commit_offsets(
        self,
        producer_id: int,
        epoch: int,
        group_id: str,
        offsets: Sequence[PendingOffset],
        *,
        version: int,
        steady_ms: int,
    ) -> Step:
        """TxnOffsetCommit: the offsets are the group's when the transaction commits."""
        error = self.check_offsets(producer_id, epoch, group_id, version=version)
        out = Step(error)
        if not error:
            self._register(out, (), (group_id,), 2 if version >= OFFSET_COMMIT_REGISTERS else self._version, steady_ms)
            for offset in offsets:
                self._write(out, offset.record())
        return out

    def _refuse(self, producer_id: int, epoch: int, fenced: ErrorCode) -> int:
        """Why the coordinator does not take a request of this producer. While it is busy it does not even look."""
        if self.state in _BUSY:
            return ErrorCode.CONCURRENT_TRANSACTIONS
        return self._verify(producer_id, epoch, fenced)

    def _verify(self, producer_id: int, epoch: int, fenced: ErrorCode) -> int:
        """The same for requests that only ask whether something belongs to the transaction."""
        if producer_id != self.producer_id or self.is_blank:
            return ErrorCode.INVALID_PRODUCER_ID_MAPPING
        if epoch != self.producer_epoch:
            return fenced
        return ErrorCode.CONCURRENT_TRANSACTIONS if self.state in _BUSY else ErrorCode.NONE

    def _register(
        self, out: Step, partitions: Sequence[Registration], groups: tuple[str, ...], version: int, steady_ms: int
    ) -> None:
        known, known_groups = self.partitions, self.groups
        new = {(topic_id, index): offset for topic_id, index, offset in partitions if (topic_id, index) not in known}
        new_groups = [group_id for group_id in groups if group_id not in known_groups]
        is_new = self.state != ONGOING
        if is_new or new or new_groups:
            self._transit(
                out,
                "register",
                steady_ms,
                partitions=[[*partition, offset] for partition, offset in (known | new).items()],
                groups=[*known_groups, *new_groups],
                started_ms=steady_ms if is_new else self.started_ms,
                version=version,
            )

    # -- ends --------------------------------------------------------------------------------------------------------

    def end(
        self,
        producer_id: int,
        epoch: int,
        commit: bool,
        *,
        version: int,
        fresh_producer_id: int | None = None,
        steady_ms: int,
    ) -> Step:
        """EndTxn: the reply is the id and epoch that the producer has from now on; older versions do not send it."""
        bumps = version >= END_BUMPS_EPOCH
        out = Step(reply=NO_PRODUCER)
        if bumps:
            out.error, is_decided = self._look_at_end(producer_id, epoch, commit)
        else:
            out.error, is_decided = self._look_at_older_end(producer_id, epoch, commit, version)
        if out.error:
            return out
        if not is_decided:
            self._prepare(out, "commit" if commit else "abort", steady_ms, fresh_producer_id, bumps=bumps)
            out.decision = self._decision()
        out.reply = self._client_producer()
        return out

    def _look_at_end(self, producer_id: int, epoch: int, commit: bool) -> tuple[int, bool]:
        """Why it is refused, and whether this is a retry of an end that is done (KIP-890)."""
        state = self.state
        if state in _BUSY:
            return ErrorCode.CONCURRENT_TRANSACTIONS, False
        is_done = state in (COMPLETE_COMMIT, COMPLETE_ABORT)
        # The client has not heard of the epoch, or of the id, that its end has given it. Kafka does not ask whether it
        # is the same client's epoch: where an older client has followed a newer one, it lets the former one back in.
        has_new_id = producer_id == self._previous_producer_id and epoch == LAST_EPOCH and self.producer_epoch == 0
        is_retry = is_done and 0 <= epoch == self._last_epoch and (has_new_id or self.producer_epoch == epoch + 1)
        if self.is_blank or (producer_id != self.producer_id and not has_new_id):
            return ErrorCode.INVALID_PRODUCER_ID_MAPPING, False
        if epoch != self.producer_epoch and not is_retry:
            return ErrorCode.PRODUCER_FENCED, False
        if is_retry:
            is_same = commit == (state == COMPLETE_COMMIT)
            return (ErrorCode.NONE if is_same else ErrorCode.INVALID_TXN_STATE), is_same
        return (ErrorCode.INVALID_TXN_STATE if commit and state != ONGOING else ErrorCode.NONE), False

    def _look_at_older_end(self, producer_id: int, epoch: int, commit: bool, version: int) -> tuple[int, bool]:
        """The same, where an end leaves the epoch as it is, and the same end twice is a retry."""
        error = self._verify(producer_id, epoch, _fenced(version >= KNOWS_FENCED))
        if error or self.state == ONGOING:
            return error, False
        is_same = self.state == (COMPLETE_COMMIT if commit else COMPLETE_ABORT)
        return (ErrorCode.NONE if is_same else ErrorCode.INVALID_TXN_STATE), is_same

    def _prepare(self, out: Step, event: str, steady_ms: int, fresh_producer_id: int | None, *, bumps: bool) -> None:
        """Decide. From here on, nothing but the ending can happen."""
        changes: dict[str, Any] = {}
        if bumps:
            changes["last_producer_epoch"] = self.producer_epoch
            changes["producer_epoch"] = self.producer_epoch + 1
            if self.producer_epoch >= LAST_EPOCH:
                changes["next_producer_id"] = _need(fresh_producer_id)
        if self.state != ONGOING:
            changes["started_ms"] = steady_ms
        self._transit(out, event, steady_ms, **changes, version=2 if bumps else 0)

    def _decision(self, *, is_timeout: bool = False, by_operator: bool = False) -> Decision:
        return Decision(
            self.state == PREPARE_COMMIT,
            self.producer_id,
            self.producer_epoch,
            tuple(self.partitions),
            tuple(self.pending.values()),
            is_timeout,
            by_operator,
        )

    def _client_producer(self) -> tuple[int, int]:
        """The id and epoch that a client goes on with after the end."""
        if self._next_producer_id >= 0:
            return self._next_producer_id, 0
        return self.producer_id, self.producer_epoch

    # -- changes -----------------------------------------------------------------------------------------------------

    def _transit(self, out: Step, event: str, steady_ms: int, **changes: Any) -> None:
        """The only way to another state. Fields of the record that are not named stay as they are."""
        before = self.state
        changes["state"] = TRANSITIONS[before, event]
        changes["updated_ms"] = steady_ms
        changes["previous_producer_id"] = self.producer_id
        self._write(out, Record("transaction", "", self._value() | changes))
        if before != self.state or before != ONGOING:
            self._set_timers(out)

    def _write(self, out: Step, record: Record) -> None:
        out.records.append(record)
        self.apply(record)

    def _set_timers(self, out: Step) -> None:
        out.timers = {name: self._deadline_ms(name) for name in ("timeout", "expire")}

    def _deadline_ms(self, name: str) -> int | None:
        if name == "timeout" and self.state == ONGOING:
            return self.started_ms + self.timeout_ms
        if name == "expire" and self.state in _AT_REST and not self.is_blank:
            return self._updated_ms + self.settings.transactional_id_expiration_ms
        return None


def _fenced(knows_it: bool) -> ErrorCode:
    return ErrorCode.PRODUCER_FENCED if knows_it else ErrorCode.INVALID_PRODUCER_EPOCH


def _need(producer_id: int | None) -> int:
    if producer_id is None:
        raise ValueError("a fresh producer id is needed: see needs_producer_id")
    return producer_id
