"""The duplicate window, against a model that keeps the whole history of a producer as single records."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from pg_kafka.coordinator.producer_state import (
    Accepted,
    BatchRefused,
    Duplicate,
    ProducerWindow,
    SequencedBatch,
    advance,
    check,
    dump,
    load,
    mark,
    sequence_after,
)
from pg_kafka.wire.error_codes import ErrorCode

TOP = 2**31 - 1


def filled(*counts: int, epoch: int = 0, first: int = 0) -> ProducerWindow:
    window: ProducerWindow | None = None
    sequence, offset = first, 0
    for count in counts:
        window = advance(
            window, epoch=epoch, base_sequence=sequence, count=count, base_offset=offset, timestamp_ms=1000 + offset
        )
        sequence, offset = sequence_after(sequence, count), offset + count
    assert window is not None
    return window


def error_of(verdict: object) -> ErrorCode:
    assert isinstance(verdict, BatchRefused)
    return verdict.error


def test_unknown_producer_may_begin_at_any_sequence() -> None:
    assert check(None, epoch=3, base_sequence=41, count=2) == Accepted()


def test_next_sequence_is_accepted() -> None:
    assert check(filled(3, 2), epoch=0, base_sequence=5, count=1) == Accepted()


def test_gap_is_out_of_order() -> None:
    assert error_of(check(filled(3), epoch=0, base_sequence=4, count=1)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_each_of_the_last_five_batches_is_a_duplicate_with_its_first_offset() -> None:
    window = filled(1, 2, 3, 4, 5, 6)
    assert [b.base_offset for b in window.batches] == [1, 3, 6, 10, 15]
    for batch in window.batches:
        count = batch.last_sequence - batch.first_sequence + 1
        assert check(window, epoch=0, base_sequence=batch.first_sequence, count=count) == Duplicate(batch)


def test_batch_older_than_the_window_is_out_of_order() -> None:
    verdict = check(filled(1, 2, 3, 4, 5, 6), epoch=0, base_sequence=0, count=1)
    assert error_of(verdict) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_part_of_a_batch_is_no_duplicate() -> None:
    for base_sequence, count in [(0, 2), (1, 2), (0, 4)]:
        verdict = check(filled(3), epoch=0, base_sequence=base_sequence, count=count)
        assert error_of(verdict) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_older_epoch_is_invalid_even_with_a_sequence_of_the_window() -> None:
    assert error_of(check(filled(3, epoch=2), epoch=1, base_sequence=0, count=3)) is ErrorCode.INVALID_PRODUCER_EPOCH


def test_newer_epoch_begins_at_zero() -> None:
    window = filled(3, epoch=2)
    assert check(window, epoch=3, base_sequence=0, count=3) == Accepted()
    assert error_of(check(window, epoch=3, base_sequence=3, count=1)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_new_epoch_forgets_the_batches_before_it() -> None:
    window = advance(filled(3), epoch=1, base_sequence=0, count=2, base_offset=3, timestamp_ms=7)
    assert window == ProducerWindow(1, (SequencedBatch(0, 1, 3, 4, 7),), 7)


def test_epoch_known_without_batches_expects_zero() -> None:
    window = ProducerWindow(4, (), 0)
    assert check(window, epoch=4, base_sequence=0, count=1) == Accepted()
    assert error_of(check(window, epoch=4, base_sequence=1, count=1)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_sequence_wraps_to_zero_between_batches_and_within_one() -> None:
    assert check(filled(2, first=TOP - 1), epoch=0, base_sequence=0, count=1) == Accepted()
    window = filled(3, first=TOP - 1)
    assert window.batches[0].last_sequence == 0
    assert check(window, epoch=0, base_sequence=TOP - 1, count=3) == Duplicate(window.batches[0])
    assert check(window, epoch=0, base_sequence=1, count=9) == Accepted()


def test_coordinator_s_epoch_is_that_of_the_last_marker() -> None:
    window = filled(3)
    assert window.coordinator_epoch == -1
    window = mark(window, epoch=0, timestamp_ms=5, coordinator_epoch=7)
    assert (window.batches, window.coordinator_epoch) == (filled(3).batches, 7)
    window = advance(window, epoch=0, base_sequence=3, count=1, base_offset=9, timestamp_ms=6)
    window = advance(window, epoch=1, base_sequence=0, count=1, base_offset=10, timestamp_ms=6)
    assert window.coordinator_epoch == 7
    window = mark(window, epoch=2, timestamp_ms=8, coordinator_epoch=1007)
    assert window == ProducerWindow(2, (), 8, 1007)
    assert load(json.loads(json.dumps(dump(window)))) == window
    assert load([2, 8, []]) == ProducerWindow(2, (), 8)  # of a checkpoint that does not say it


@dataclass
class Model:
    """One (epoch, sequence) for each record ever appended, and where its batches began."""

    sent: list[tuple[int, int]] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)

    def answer(self, epoch: int, base_sequence: int, count: int) -> int | ErrorCode:
        """The base offset that the producer must see, or the error."""
        records = [(epoch, (base_sequence + i) & TOP) for i in range(count)]
        ends = [*self.begins[1:], len(self.sent)][: len(self.begins)]
        for begin, end in list(zip(self.begins, ends, strict=True))[-5:]:
            if epoch == self.sent[-1][0] and self.sent[begin:end] == records:
                return begin
        if self.sent:
            last_epoch, last_sequence = self.sent[-1]
            if epoch < last_epoch:
                return ErrorCode.INVALID_PRODUCER_EPOCH
            wanted = 0 if epoch > last_epoch else (last_sequence + 1) & TOP
            if base_sequence != wanted:
                return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        self.begins.append(len(self.sent))
        self.sent += records
        return self.begins[-1]


SEQUENCES = st.one_of(st.integers(0, 12), st.integers(TOP - 6, TOP))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["next", "again", "any"]), st.integers(0, 3), SEQUENCES, st.integers(1, 4), st.integers(1, 7)
    ),
    max_size=40,
)


@given(first=SEQUENCES, steps=STEPS)
@settings(max_examples=300, deadline=None)
def test_window_answers_as_the_whole_history_would(first: int, steps: list[tuple[str, int, int, int, int]]) -> None:
    model, window = Model(), None
    answered: list[tuple[int, int, int]] = []
    for kind, epoch, sequence, count, back in [("any", 0, first, 2, 1), *steps]:
        if kind == "next" and model.sent:
            epoch, sequence = model.sent[-1][0], (model.sent[-1][1] + 1) & TOP
        elif kind == "again" and len(answered) >= back:
            epoch, sequence, count = answered[-back]
        end = len(model.sent)
        wanted = model.answer(epoch, sequence, count)
        verdict = check(window, epoch=epoch, base_sequence=sequence, count=count)
        if isinstance(verdict, BatchRefused):
            assert verdict.error is wanted
        elif isinstance(verdict, Duplicate):
            assert verdict.batch.base_offset == wanted
        else:
            assert wanted == end
            answered.append((epoch, sequence, count))
            window = advance(
                window, epoch=epoch, base_sequence=sequence, count=count, base_offset=end, timestamp_ms=end
            )
            assert load(json.loads(json.dumps(dump(window)))) == window
