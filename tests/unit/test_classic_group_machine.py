"""Classic groups under random clients, crashes and restarts.

Simulated members follow the protocol as consumers do; some crash, restart, change their minds, or send nonsense. The
broker is killed between steps, before and after the write of a step. Whatever the order:

- a partition is owned by one member of a generation, and once the group is stable each is owned;
- generations grow, and nothing of an older one is accepted;
- each request is answered once, and a group that waits has a timer that ends the wait;
- what is stored gives the same group again;
- members that behave end up in a stable group of just them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.classic_driver import SETTINGS, Driver, assignment, subscription

from pg_kafka.coordinator.classic_state import COMPLETING, EMPTY, PREPARING, STABLE
from pg_kafka.coordinator.subscriptions import assigned_partitions
from pg_kafka.wire.error_codes import ErrorCode

PARTITIONS = 5
REJOIN = {ErrorCode.REBALANCE_IN_PROGRESS, ErrorCode.ILLEGAL_GENERATION, ErrorCode.MEMBER_ID_REQUIRED}
FATAL = {ErrorCode.FENCED_INSTANCE_ID, ErrorCode.GROUP_MAX_SIZE_REACHED, ErrorCode.INCONSISTENT_GROUP_PROTOCOL}

protocols = st.sampled_from([("range",), ("range", "sticky"), ("sticky", "range")])
topics = st.sampled_from([("t",), ("t", "u"), ()])
texts = st.sampled_from(["", "nobody", "c-1", "c-2", "i0-1", "\0", "x" * 300])


@dataclass
class Client:
    """A consumer. `phase` is what it does next, or what it waits for."""

    instance_id: str | None
    names: tuple[str, ...]
    topics: tuple[str, ...]
    version: int
    rebalance_ms: int
    member_id: str = ""
    generation: int = -1
    phase: str = "join"  # join, joining, sync, syncing, stable, gone
    token: int = 0
    protocol: str | None = None
    led: list[str] | None = None  # members to assign to
    owned: set[int] = field(default_factory=set)

    @property
    def identity(self) -> str:
        return self.instance_id or self.member_id

    @property
    def is_alive(self) -> bool:
        return self.phase != "gone"


class ClassicGroupMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver()
        self.clients: list[Client] = []
        self.owners: dict[tuple[int, int], str] = {}  # by generation and partition
        self.told = 0  # the highest generation that a client has seen
        self.stored_generation = 0

    @initialize(size=st.sampled_from([3, 2**31 - 1]), delay_ms=st.sampled_from([0, 3_000]))
    def begin(self, size: int, delay_ms: int) -> None:
        self.driver = Driver(replace(SETTINGS, group_max_size=size, group_initial_rebalance_delay_ms=delay_ms))

    # -- what clients do -----------------------------------------------------------------------------------------------

    def act(self, client: Client) -> None:
        """The client's next request."""
        if client.phase == "join":
            client.token = self.driver.send_join(
                client.member_id,
                instance_id=client.instance_id,
                protocols=[(name, subscription(*client.topics)) for name in client.names],
                version=client.version,
                rebalance_ms=client.rebalance_ms,
            )
            client.phase = "joining"
        elif client.phase == "sync":
            given: dict[str, bytes] = {}
            if client.led is not None:
                given = {
                    member_id: assignment(t=list(range(number, PARTITIONS, len(client.led))))
                    for number, member_id in enumerate(client.led)
                }
            client.token = self.driver.send_sync(
                client.member_id,
                client.generation,
                instance_id=client.instance_id,
                protocol_name=client.protocol,
                assignments=given,
            )
            client.phase = "syncing"
        elif client.phase == "stable":
            self.receive_error(
                client, self.driver.heartbeat(client.member_id, client.generation, client.instance_id), "stable"
            )
        self.deliver()

    def deliver(self) -> None:
        """Replies reach whoever still waits for them."""
        for client in self.clients:
            reply = self.driver.replies.get(client.token)
            if reply is None or client.phase not in ("joining", "syncing"):
                continue
            if client.phase == "joining":
                self.receive_join(client, reply)
            else:
                self.receive_sync(client, reply)

    def receive_join(self, client: Client, reply: Any) -> None:
        if reply.error_code == ErrorCode.MEMBER_ID_REQUIRED:
            client.member_id = reply.member_id
        if reply.error_code:
            self.receive_error(client, reply.error_code, "join")
            return
        assert reply.generation_id >= client.generation
        assert reply.generation_id <= self.driver.group.generation
        client.member_id, client.generation = reply.member_id, reply.generation_id
        client.protocol, client.phase = reply.protocol_name, "sync"
        self.told = max(self.told, client.generation)
        is_leader = reply.leader == client.member_id and not reply.skip_assignment
        client.led = [member.member_id for member in reply.members] if is_leader else None
        if is_leader and reply.members:
            assert client.member_id in (client.led or ())

    def receive_sync(self, client: Client, reply: Any) -> None:
        if reply.error_code:
            self.receive_error(client, reply.error_code, "join")
            return
        owned = (assigned_partitions(reply.assignment) or {}).get("t", [])
        for partition in owned:
            owner = self.owners.setdefault((client.generation, partition), client.identity)
            assert owner == client.identity, "two members own a partition in one generation"
        client.owned, client.phase = set(owned), "stable"

    def receive_error(self, client: Client, error: int, phase: str) -> None:
        if error == ErrorCode.NONE:
            assert client.generation == self.driver.group.generation
            client.phase = phase
        elif error == ErrorCode.UNKNOWN_MEMBER_ID:
            client.member_id, client.generation, client.phase = "", -1, "join"
        elif error in FATAL:
            client.phase = "gone"
        else:
            assert error in REJOIN, ErrorCode(error)
            client.phase = "join"

    def one_of(self, number: int) -> Client | None:
        alive = [client for client in self.clients if client.is_alive]
        return alive[number % len(alive)] if alive else None

    # -- rules ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: sum(client.is_alive for client in self.clients) < 6)
    @rule(
        instance_id=st.sampled_from([None, None, "i0", "i1"]),
        names=protocols,
        topics=topics,
        version=st.sampled_from([9, 9, 8, 3]),
        rebalance_ms=st.sampled_from([60_000, 4_000]),
    )
    def start_client(
        self, instance_id: str | None, names: tuple[str, ...], topics: tuple[str, ...], version: int, rebalance_ms: int
    ) -> None:
        """With an instance id that is in use, it is a static member that was restarted."""
        self.clients.append(
            Client(instance_id, names, topics, max(version, 5) if instance_id else version, rebalance_ms)
        )

    @rule(number=st.integers(0, 5))
    def step(self, number: int) -> None:
        client = self.one_of(number)
        if client:
            self.act(client)

    @rule(ms=st.sampled_from([0, 100, 1_000, 3_000]), rounds=st.integers(1, 4))
    def everybody_steps(self, ms: int, rounds: int) -> None:
        for _ in range(rounds):
            for client in self.clients:
                self.act(client)
            self.driver.advance(ms)
            self.deliver()

    @rule(ms=st.sampled_from([1, 3_000, 4_000, 9_999, 10_000, 60_000, 300_000]))
    def time_passes(self, ms: int) -> None:
        self.driver.advance(ms)
        self.deliver()

    @rule(number=st.integers(0, 5))
    def ask_again(self, number: int) -> None:
        """The client has lost patience with its connection."""
        client = self.one_of(number)
        if client and client.phase in ("joining", "syncing"):
            client.phase = {"joining": "join", "syncing": "sync"}[client.phase]
            self.act(client)

    @rule(number=st.integers(0, 5))
    def rejoin(self, number: int) -> None:
        client = self.one_of(number)
        if client and client.phase in ("sync", "stable"):
            client.phase = "join"
            self.act(client)

    @rule(number=st.integers(0, 5), topics=topics)
    def change_subscription(self, number: int, topics: tuple[str, ...]) -> None:
        client = self.one_of(number)
        if client and client.phase in ("sync", "stable"):
            client.topics, client.phase = topics, "join"
            self.act(client)

    @rule(number=st.integers(0, 5))
    def leave(self, number: int) -> None:
        client = self.one_of(number)
        if client:
            self.driver.leave((client.member_id, client.instance_id))
            client.phase = "gone"
            self.deliver()

    @rule(number=st.integers(0, 5))
    def crash_client(self, number: int) -> None:
        client = self.one_of(number)
        if client:
            client.phase = "gone"

    @rule(member_id=texts, instance_id=st.sampled_from([None, "i0", "i9", ""]), generation=st.integers(-2, 6))
    def zombie(self, member_id: str, instance_id: str | None, generation: int) -> None:
        """Who has no business here neither gets nor changes anything."""
        if any(client.member_id == member_id for client in self.clients) or not member_id:
            return
        state = self.driver.group.state
        assert self.driver.heartbeat(member_id, generation, instance_id) != ErrorCode.NONE
        assert self.driver.sync(member_id, generation, instance_id=instance_id).error_code != ErrorCode.NONE
        if generation >= 0 or state != EMPTY:
            assert self.driver.group.check_commit(member_id, instance_id, generation, 9) != ErrorCode.NONE
        assert self.driver.group.state == state

    @rule(number=st.integers(0, 5), steps=st.sampled_from([-1, 1]))
    def wrong_generation(self, number: int, steps: int) -> None:
        """A member's request of before or of nowhere is refused."""
        client = self.one_of(number)
        if client:
            generation = self.driver.group.generation + steps
            assert self.driver.heartbeat(client.member_id, generation, client.instance_id)
            assert self.driver.sync(client.member_id, generation, instance_id=client.instance_id).error_code

    @rule(
        member_id=texts,
        instance_id=st.sampled_from([None, "i0", "", "\0"]),
        names=st.lists(st.sampled_from(["range", "", "range", "x\0"]), max_size=3),
        metadata=st.binary(max_size=12),
        session_ms=st.sampled_from([-1, 0, 6_000]),
        rebalance_ms=st.sampled_from([-(2**31), -1, 0, 1]),
        version=st.integers(0, 9),
    )
    def hostile_join(
        self,
        member_id: str,
        instance_id: str | None,
        names: list[str],
        metadata: bytes,
        session_ms: int,
        rebalance_ms: int,
        version: int,
    ) -> None:
        """Any join may happen, as long as it leaves a group that works; this one is never heard of again."""
        if any(client.member_id == member_id for client in self.clients if member_id):
            return
        self.driver.send_join(
            member_id,
            instance_id=instance_id,
            protocols=[(name, metadata) for name in names],
            session_ms=session_ms,
            rebalance_ms=rebalance_ms,
            version=version,
        )
        self.deliver()

    @rule(number=st.integers(0, 5), is_written=st.booleans(), size=st.sampled_from([2, 2**31 - 1, 2**31 - 1]))
    def kill_broker(self, number: int, is_written: bool, size: int) -> None:
        """It dies in the middle of a client's step: the reply is lost, the write of the step may be."""
        stored, client = list(self.driver.stored), self.one_of(number)
        if client and client.phase in ("join", "sync"):
            replies = dict(self.driver.replies)
            deliver, self.deliver = self.deliver, lambda: None  # type: ignore[method-assign]
            self.act(client)
            self.deliver = deliver  # type: ignore[method-assign]
            self.driver.replies = replies
            if not is_written:
                self.driver.stored = stored
        self.driver.settings = replace(self.driver.settings, group_max_size=size)
        self.driver.restart()
        for each in self.clients:
            if each.phase in ("joining", "syncing"):
                each.phase = "join"

    # -- invariants ----------------------------------------------------------------------------------------------------

    @invariant()
    def generations_grow(self) -> None:
        generation = self.driver.stored[0].value["generation"] if self.driver.stored else 0  # type: ignore[index]
        assert generation >= self.stored_generation
        assert generation == self.driver.group.generation, "a generation is written when it begins"
        assert generation >= self.told
        self.stored_generation = generation

    @invariant()
    def reload_gives_the_same(self) -> None:
        group, loaded = self.driver.group, self.driver.reloaded()
        assert loaded.generation == group.generation
        if group.state == PREPARING:
            return
        for name in ("state", "members", "leader", "protocol", "subscribed_topics", "_static", "_supporters"):
            assert getattr(loaded, name) == getattr(group, name), name
        assert loaded.describe_classic() == group.describe_classic()

    @invariant()
    def each_request_waits_once(self) -> None:
        group = self.driver.group
        waiting = [*group._joining.values(), *group._syncing.values()]
        assert {each.token for each in waiting} == self.driver.open
        assert len(waiting) == len(self.driver.open)
        assert set(group._joining) <= set(group.members)
        assert set(group._syncing) <= set(group.members)

    @invariant()
    def every_wait_ends(self) -> None:
        group, timers = self.driver.group, self.driver.timers
        assert (("join", "g") in timers) == (group.state == PREPARING)
        assert (("sync", "g") in timers) == bool(group._not_synced or group.state == COMPLETING)
        assert group._not_synced <= set(group.members)
        assert group._new <= set(group._joining)
        for member_id in (*group.members, *group._pending):
            waits = member_id in group._joining or member_id in group._syncing
            assert ("session", "g", member_id) in timers or (waits and member_id not in group._new)
        assert {name[2] for name in timers if name[0] == "session"} <= {*group.members, *group._pending}
        assert (group.state == EMPTY) <= (not group.members)

    @invariant()
    def stable_group_owns_all(self) -> None:
        group = self.driver.group
        if group.state == COMPLETING:
            assert not any(member.assignment for member in group.members.values())
        if group.state != STABLE:
            return
        owned = [
            partition
            for member in group.members.values()
            for partition in (assigned_partitions(member.assignment) or {}).get("t", [])
        ]
        assert sorted(owned) == list(range(PARTITIONS))

    @invariant()
    def only_members_of_the_generation_commit(self) -> None:
        for client in self.clients:
            if client.generation < 0:
                continue
            error = self.driver.group.check_commit(client.member_id, client.instance_id, client.generation, 9)
            if client.generation != self.driver.group.generation:
                assert error != ErrorCode.NONE
            elif client.phase == "stable" and error == ErrorCode.NONE and self.driver.group.state == STABLE:
                assert client.owned == set(
                    (assigned_partitions(self.driver.group.members[client.member_id].assignment) or {}).get("t", [])
                )

    def teardown(self) -> None:
        """Left alone, those who behave find together."""
        alive: list[Client] = []
        for _ in range(700):
            self.everybody_steps(1_000, 1)
            self.every_wait_ends()
            alive = [client for client in self.clients if client.is_alive]
            members = {client.member_id for client in alive}
            group = self.driver.group
            if set(group.members) == members and not group._pending:
                if not alive and group.state == EMPTY:
                    break
                if alive and group.state == STABLE and {client.phase for client in alive} == {"stable"}:
                    break
        else:
            raise AssertionError(f"{self.driver.group.state}: {alive}")
        if alive:
            self.stable_group_owns_all()
            assert sorted(partition for client in alive for partition in client.owned) == list(range(PARTITIONS))


TestClassicGroupMachine = ClassicGroupMachine.TestCase
TestClassicGroupMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
