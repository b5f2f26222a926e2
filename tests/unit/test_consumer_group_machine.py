"""Random clients of both protocols against one group, with topics that change and a broker that dies.

Clients behave: they give up what they are told to, sooner or later, and say what they own. Any may fall silent, lose an
answer, come back with an old epoch or under another member id. After every step:

- no partition is owned by two members, in the broker's books and in the clients' own,
- the books that follow from the members (owners, counts) are what the members add up to,
- epochs only grow, whichever kind the group is of,
- the stored records rebuild the same group.

And when all clients go on and time passes, the group becomes stable, and every partition of every subscribed topic that
exists is owned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from pg_kafka.config.groups import GroupSettings
from pg_kafka.coordinator.classic_group import ClassicGroup
from pg_kafka.coordinator.consumer_group import ConsumerGroup
from pg_kafka.coordinator.consumer_protocol import read_assignment
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatResponse

from .consumer_groups import ALL_ASSIGNORS, Driver, Topics

TOPICS = ("t1", "t2", "t3")
SETTINGS = GroupSettings(group_consumer_assignors=ALL_ASSIGNORS, group_initial_rebalance_delay_ms=0)

subscriptions = st.frozensets(st.sampled_from(TOPICS), min_size=1).map(sorted)
regexes = st.sampled_from(["", "", "t[12]", "t.", "t3"])


@dataclass
class Client:
    """What a client of the consumer protocol believes. It takes what it is given, and gives up the rest when it likes."""

    member_id: str
    topics: list[str]
    regex: str = ""
    instance_id: str | None = None
    epoch: int = 0
    owned: dict[str, set[int]] = field(default_factory=dict)
    target: dict[str, set[int]] = field(default_factory=dict)
    is_gone: bool = False

    def listen(self, driver: Driver, answer: ConsumerGroupHeartbeatResponse) -> None:
        if answer.error_code:
            # Kafka's clients abandon their partitions and join anew.
            self.epoch, self.owned, self.target = 0, {}, {}
            return
        self.epoch = answer.member_epoch
        parts = driver.parts(answer)
        if parts is not None:
            self.target = {name: set(ids) for name, ids in parts.items()}
            for name, ids in self.target.items():
                self.owned.setdefault(name, set()).update(ids)

    def give_up(self) -> None:
        self.owned = {name: ids & self.target.get(name, set()) for name, ids in self.owned.items()}

    def says(self) -> dict[str, list[int]]:
        return {name: sorted(ids) for name, ids in self.owned.items() if ids}


@dataclass
class ClassicClient:
    """A client of the classic protocol with cooperative rebalancing: it keeps what it owns while it joins."""

    member_id: str
    topics: list[str]
    generation: int = -1
    owned: dict[str, tuple[int, ...]] = field(default_factory=dict)
    is_gone: bool = False


class ConsumerGroupMachine(RuleBasedStateMachine):
    clients = Bundle("clients")
    classics = Bundle("classics")

    @initialize(target=clients, interval_ms=st.sampled_from([0, 1_000]), topics=st.lists(subscriptions, max_size=4))
    def begin(self, interval_ms: int, topics: list[list[str]]) -> object:
        self.driver = Driver(Topics(t1=3, t2=2), replace(SETTINGS, group_consumer_assignment_interval_ms=interval_ms))
        self.all: list[Client] = []
        self.all_classic: list[ClassicClient] = []
        self.made = 0
        self.epoch = 0
        # A group that has lost all members may begin anew as one of the other kind.
        self.was_empty = True
        return multiple(*(self.new_client(each, "", None, None) for each in topics))

    def _name(self) -> str:
        self.made += 1
        return f"m{self.made}"

    # -- clients of the consumer protocol ------------------------------------------------------------------------

    def _join(self, client: Client, assignor: str | None = None) -> None:
        client.owned = {}
        answer = self.driver.join(
            client.member_id,
            *client.topics,
            subscribed_topic_regex=client.regex,
            instance_id=client.instance_id,
            server_assignor=assignor,
        )
        client.listen(self.driver, answer)

    def _beat(self, client: Client) -> None:
        answer = self.driver.beat(client.member_id, client.epoch, client.says(), instance_id=client.instance_id)
        client.listen(self.driver, answer)

    def new_client(self, topics: list[str], regex: str, assignor: str | None, instance: str | None) -> Client:
        client = Client(self._name(), topics, regex, instance)
        self._join(client, assignor)
        self.all.append(client)
        if client.epoch == 0:
            client.is_gone = True  # the instance id is in use
        elif instance is not None:
            for other in self.all[:-1]:
                other.is_gone = other.is_gone or other.instance_id == instance
        return client

    @rule(
        target=clients,
        topics=subscriptions,
        regex=regexes,
        assignor=st.sampled_from([None, *ALL_ASSIGNORS]),
        instance=st.sampled_from([None, None, "i1", "i2"]),
    )
    def join(self, topics: list[str], regex: str, assignor: str | None, instance: str | None) -> Client:
        return self.new_client(topics, regex, assignor, instance)

    @rule(client=clients, gives_up=st.booleans())
    def heartbeat(self, client: Client, gives_up: bool) -> None:
        if client.is_gone:
            return
        if gives_up:
            client.give_up()
        if client.epoch == 0:
            self._rejoin(client)
        else:
            self._beat(client)

    def _rejoin(self, client: Client) -> None:
        self._join(client)
        client.is_gone = client.epoch == 0

    @rule(client=clients)
    def heartbeat_that_says_nothing(self, client: Client) -> None:
        if not client.is_gone and client.epoch > 0:
            answer = self.driver.beat(client.member_id, client.epoch, instance_id=client.instance_id)
            client.listen(self.driver, answer)

    @rule(client=clients)
    def heartbeat_whose_answer_is_lost(self, client: Client) -> None:
        if client.is_gone or client.epoch == 0:
            return
        self.driver.beat(client.member_id, client.epoch, client.says(), instance_id=client.instance_id)

    @rule(client=clients)
    def join_whose_answer_is_lost(self, client: Client) -> None:
        if not client.is_gone and client.instance_id is None:
            client.owned, client.target, client.epoch = {}, {}, 0
            self.driver.join(client.member_id, *client.topics, subscribed_topic_regex=client.regex)

    @rule(client=clients, topics=subscriptions, regex=regexes)
    def change_subscription(self, client: Client, topics: list[str], regex: str) -> None:
        if client.is_gone or client.epoch == 0:
            return
        client.topics, client.regex = topics, regex
        answer = self.driver.beat(
            client.member_id,
            client.epoch,
            client.says(),
            topics=topics,
            subscribed_topic_regex=regex,
            rebalance_timeout_ms=60_000,
            instance_id=client.instance_id,
        )
        client.listen(self.driver, answer)

    @rule(client=consumes(clients), for_a_moment=st.booleans())
    def leave(self, client: Client, for_a_moment: bool) -> None:
        if not client.is_gone and client.epoch > 0:
            client.owned = {}
            is_away = for_a_moment and client.instance_id is not None
            self.driver.beat(client.member_id, -2 if is_away else -1, instance_id=client.instance_id)
        client.is_gone = True

    @rule(client=consumes(clients))
    def die(self, client: Client) -> None:
        client.is_gone = True
        client.owned = {}

    # -- clients of the classic protocol -------------------------------------------------------------------------

    @rule(target=classics, topics=subscriptions)
    def new_classic_client(self, topics: list[str]) -> object:
        if not isinstance(self.driver.group, ConsumerGroup) or not self.driver.group.members:
            return multiple()
        client = ClassicClient(self._name(), topics)
        self._join_classic(client)
        self.all_classic.append(client)
        return client

    def _join_classic(self, client: ClassicClient) -> None:
        driver = self.driver
        answer = driver.join_classic(client.member_id, *client.topics, owned=client.owned)
        if answer is None or answer.error_code:
            client.owned, client.generation = {}, -1
            client.is_gone = True
            return
        client.generation = answer.generation_id
        synced = driver.sync_classic(client.member_id, client.generation)
        if not synced.error_code:
            # What is missing is given up before the next join says so.
            client.owned = dict(read_assignment(bytes(synced.assignment)).partitions)

    @rule(client=classics)
    def classic_heartbeat(self, client: ClassicClient) -> None:
        if client.is_gone or not isinstance(self.driver.group, ConsumerGroup):
            return
        error = self.driver.beat_classic(client.member_id, client.generation)
        if error == ErrorCode.REBALANCE_IN_PROGRESS:
            self._join_classic(client)
        elif error:
            client.owned, client.is_gone = {}, True

    @rule(client=consumes(classics))
    def classic_leave(self, client: ClassicClient) -> None:
        client.owned, client.is_gone = {}, True
        self.driver.leave_classic(client.member_id)

    # -- the world -----------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(TOPICS), change=st.sampled_from(["create", "grow", "delete"]))
    def change_topic(self, name: str, change: str) -> None:
        topics = self.driver.topics
        if change == "create" and name not in topics.by_name:
            topics.create(name, 2)
        elif change == "grow" and name in topics.by_name:
            topics.grow(name, topics.by_name[name].partitions + 1)
        elif change == "delete" and name in topics.by_name:
            topics.delete(name)
            for client in self.all:
                client.owned.pop(name, None)
                client.target.pop(name, None)
            for classic in self.all_classic:
                classic.owned.pop(name, None)
        if isinstance(self.driver.group, ConsumerGroup):
            self.driver.catalogue_changed()

    @rule(ms=st.sampled_from([100, 500, 1_000, 5_000, 20_000, 46_000]))
    def time_passes(self, ms: int) -> None:
        members = set(self.driver.group.members)
        self.driver.pass_time(ms)
        self._forget_removed(members)

    def _forget_removed(self, members: set[str]) -> None:
        """Who is removed must stop, as Kafka's clients do when they get no answer within their session."""
        removed = members - set(self.driver.group.members)
        for client in self.all:
            if client.member_id in removed:
                client.owned, client.target = {}, {}
        for classic in self.all_classic:
            if classic.member_id in removed:
                classic.owned, classic.is_gone = {}, True

    @rule()
    def broker_dies(self) -> None:
        if isinstance(self.driver.group, ConsumerGroup):
            self.driver.restart()

    @precondition(lambda self: self.driver.group.members)
    @rule()
    def all_settle(self) -> None:
        """Everybody goes on until nothing changes: the group is stable, and all is assigned."""
        driver = self.driver
        for _ in range(60):
            if not isinstance(driver.group, ConsumerGroup):
                return
            members = set(driver.group.members)
            driver.pass_time(2_000)
            self._forget_removed(members)
            for client in self.all:
                if not client.is_gone:
                    self.heartbeat(client, gives_up=True)
            for classic in self.all_classic:
                if not classic.is_gone:
                    self.classic_heartbeat(classic)
            if driver.group.state in ("Stable", "Empty") and self._is_complete():
                return
        raise AssertionError(f"not stable: {driver.group.state} {driver.group.members} {driver.group.targets}")

    def _is_complete(self) -> bool:
        group, topics = self.driver.group, self.driver.topics
        wanted = frozenset[UUID]().union(*(group.subscribed_ids(member) for member in group.members.values()))
        owned = {
            (topic, partition)
            for member in group.members.values()
            for topic, partitions in member.assigned.items()
            for partition in partitions
            if topic in topics.by_uuid
        }
        return owned == {(topic, number) for topic in wanted for number in range(topics.by_uuid[topic].partitions)}

    # -- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def no_partition_is_owned_twice_in_the_books(self) -> None:
        group = self.driver.group
        if not isinstance(group, ConsumerGroup):
            return
        owners: dict[UUID, dict[int, str]] = {}
        for member in group.members.values():
            for owned in (member.assigned, member.pending):
                for topic, partitions in owned.items():
                    for partition in partitions:
                        assert partition not in owners.setdefault(topic, {}), (topic, partition, group.members)
                        owners[topic][partition] = member.member_id
        assert {topic: held for topic, held in group._owners.items() if held} == owners

    @invariant()
    def no_partition_is_owned_by_two_clients(self) -> None:
        if not isinstance(self.driver.group, ConsumerGroup):
            return
        held: dict[tuple[str, int], str] = {}
        for client in (*self.all, *self.all_classic):
            for name, ids in client.owned.items():
                for number in ids:
                    assert (name, number) not in held, (name, number, held[name, number], client)
                    held[name, number] = client.member_id

    @invariant()
    def epochs_only_grow(self) -> None:
        group = self.driver.group
        epoch = group.generation if isinstance(group, ClassicGroup) else group.epoch
        assert epoch >= self.epoch or self.was_empty
        self.epoch, self.was_empty = epoch, not group.members
        if isinstance(group, ConsumerGroup):
            assert group.target_epoch <= group.epoch
            assert all(member.epoch <= group.target_epoch for member in group.members.values())

    @invariant()
    def every_member_has_a_session(self) -> None:
        for member_id in self.driver.group.members:
            assert ("session", "g", member_id) in self.driver.timers


TestConsumerGroupMachine = ConsumerGroupMachine.TestCase
TestConsumerGroupMachine.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
