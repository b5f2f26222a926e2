"""The books of the bank test: what was ordered, what tellers said, what readers saw, and whether that agrees.

An order is "ORDER GIVER TAKER AMOUNT", an entry "ORDER ACCOUNT DELTA ATTEMPT"; the opening deposits are entries of the
order `OPENING`. Readers and tellers enter things from several threads; `check` is asked when all is quiet.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

ACCOUNTS = 24
DEPOSIT = 1000
TOTAL = ACCOUNTS * DEPOSIT
OPENING = "opening"

Log = Mapping[int, Sequence[tuple[int, str]]]  # partition: (offset, value) in the order of the log


class Entry(NamedTuple):
    order: str
    account: str
    delta: int
    attempt: str


def entry_of(value: str) -> Entry:
    order, account, delta, attempt = value.split()
    return Entry(order, account, int(delta), attempt)


def total(log: Log, cut: Mapping[int, int]) -> int:
    """What all accounts have together by the entries below the cut's offsets."""
    found = 0
    for partition, end in cut.items():
        entries = log[partition]
        found += sum(entry_of(value).delta for _, value in entries[: bisect_left(entries, (end, ""))])
    return found


def torn_orders(seen: Log, everything: Log, cut: Mapping[int, int]) -> list[str]:
    """Orders of which one entry is below the cut of last stable offsets, and the other has no excuse.

    An excuse is that the transaction that holds the other's partition back is not the order's own.
    """
    below: set[str] = set()
    above: dict[str, tuple[int, str]] = {}
    for partition, records in seen.items():
        for offset, value in records:
            entry = entry_of(value)
            if offset < cut[partition]:
                below ^= {entry.order}  # both are not of interest
            else:
                above[entry.order] = (partition, entry.attempt)
    torn = []
    for order in below & above.keys():
        partition, attempt = above[order]
        holding = [value for offset, value in everything[partition] if offset == cut[partition]]
        if not holding or entry_of(holding[0]).attempt == attempt:
            torn.append(order)
    return torn


@dataclass
class Books:
    """One run's."""

    ordered: dict[str, str] = field(default_factory=dict)  # what was acknowledged, by order
    committed: set[str] = field(default_factory=set)  # attempts, as tellers said
    aborted: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def check(self, orders: Iterable[str], seen: Log, everything: Log) -> None:
        """Hold the log's orders, what a read_committed reader saw, and all that is written against each other."""
        written = list(orders)
        self._require(Counter(written) == Counter(self.ordered.values()), "orders are not those that were acknowledged")
        entries = [entry_of(value) for records in seen.values() for _, value in records]
        by_order: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_order[entry.order].append(entry)
        opening = by_order.pop(OPENING, [])
        self._require(
            Counter((entry.account, entry.delta) for entry in opening)
            == Counter((str(account), DEPOSIT) for account in range(ACCOUNTS)),
            "the opening deposits have changed",
        )
        wrong = {order: by_order[order] for order in self.ordered if not self._is_booked_once(order, by_order[order])}
        lost = [order for order, found in wrong.items() if not found]
        self._require(not lost, f"{len(lost)} transfers are lost", lost[:5])
        doubled = {order: found for order, found in wrong.items() if found}
        self._require(not doubled, f"{len(doubled)} transfers are not two entries", list(doubled.values())[:3])
        unknown = by_order.keys() - self.ordered.keys()
        self._require(not unknown, "entries of orders that nobody gave", sorted(unknown)[:5])
        self._check_attempts({entry.attempt for entry in entries})
        self._check_hidden(seen, everything)
        balances: Counter[str] = Counter()
        for entry in entries:
            balances[entry.account] += entry.delta
        self._require(balances == self._balances(), "balances are not those that the orders give")

    def _is_booked_once(self, order: str, found: Sequence[Entry]) -> bool:
        _, giver, taker, amount = self.ordered[order].split()
        same_attempt = len({entry.attempt for entry in found}) == 1
        booked = sorted((entry.account, entry.delta) for entry in found)
        return same_attempt and booked == sorted([(giver, -int(amount)), (taker, int(amount))])

    def _balances(self) -> Counter[str]:
        balances = Counter({str(account): DEPOSIT for account in range(ACCOUNTS)})
        for order in self.ordered.values():
            _, giver, taker, amount = order.split()
            balances[giver] -= int(amount)
            balances[taker] += int(amount)
        return balances

    def _check_attempts(self, seen: Collection[str]) -> None:
        visible = self.aborted & set(seen)
        self._require(not visible, "aborted attempts are visible", sorted(visible)[:5])
        missing = self.committed - set(seen)
        self._require(not missing, "committed attempts are not visible", sorted(missing)[:5])

    def _check_hidden(self, seen: Log, everything: Log) -> None:
        """What is written and not seen is of no attempt of which something was seen, and nothing seen is not there."""
        for partition, records in everything.items():
            hidden = set(records) - set(seen[partition])
            self._require(set(seen[partition]) <= set(records), f"{partition}: seen, and not in the log")
            told = [value for _, value in hidden if entry_of(value).attempt in self.committed]
            self._require(not told, f"{partition}: entries of committed attempts are hidden", told[:5])

    def _require(self, is_so: bool, what: str, examples: Sequence[object] = ()) -> None:
        if not is_so:
            self.faults.append(f"{what} {list(examples)}" if examples else what)


class Seen:
    """What a reader saw of a topic's partitions, with running totals."""

    def __init__(self, partitions: int) -> None:
        self.log: dict[int, list[tuple[int, str]]] = {index: [] for index in range(partitions)}
        self.ends = dict.fromkeys(range(partitions), 0)  # last stable offsets up to which all has been seen
        self.halves: dict[str, int] = {}  # by order: the sum of its entries, while that is not 0
        self.booked: set[str] = set()  # orders whose entries have both been seen

    def add(self, partition: int, offset: int, value: str) -> None:
        self.log[partition].append((offset, value))
        entry = entry_of(value)
        if entry.order != OPENING:
            left = self.halves.pop(entry.order, 0) + entry.delta
            if left:
                self.halves[entry.order] = left
            else:
                self.booked.add(entry.order)
