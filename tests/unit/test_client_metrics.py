"""Who is asked for which metrics, and when they may be pushed (KIP-714): the subscriptions and the instances."""

from __future__ import annotations

import os
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pg_kafka.config import client_metrics
from pg_kafka.config.changes import Operation
from pg_kafka.config.client_metrics import altered, describe
from pg_kafka.config.keys import InvalidChange, InvalidConfig
from pg_kafka.config.layers import ConfigSource
from pg_kafka.coordinator import client_metrics as rules
from pg_kafka.coordinator.client_metrics import ALL, Client, Instance, Instances, Pushing, Subscription, shown, usable
from pg_kafka.wire.error_codes import ErrorCode

SET, DELETE, APPEND, SUBTRACT = Operation
NONE, THROTTLED, UNKNOWN, INVALID = (
    ErrorCode.NONE,
    ErrorCode.THROTTLING_QUOTA_EXCEEDED,
    ErrorCode.UNKNOWN_SUBSCRIPTION_ID,
    ErrorCode.INVALID_REQUEST,
)
EXAMPLES = int(os.environ.get("PG_KAFKA_ORACLE_EXAMPLES", "8"))

ME = UUID("00112233-4455-6677-8899-aabbccddeeff")
MOST = 1_000


@dataclass
class Wire:
    """A connection."""

    is_closed: bool = False


def client(instance_id: UUID = ME, **other: str | None) -> Client:
    known = {
        "client_id": "app-1",
        "client_software_name": "apache-kafka-java",
        "client_software_version": "4.4.0",
        "client_source_address": "10.0.0.7",
        "client_source_port": "40000",
    }
    return Client(client_instance_id=shown(instance_id), **{**known, **other})  # type: ignore[arg-type]


def subscription(name: str = "s", **configs: str) -> Subscription:
    return Subscription.of(name, {key.replace("_", "."): text for key, text in configs.items()})


def instances(*subscriptions: Subscription) -> Instances:
    made = Instances()
    made.renew(subscriptions)
    return made


def push(
    of: Instances,
    now_ms: int,
    subscription_id: int,
    wire: Wire,
    *,
    size: int = 1,
    is_last: bool = False,
    codec: int = 4,
) -> int:
    return of.push(ME, client(), wire, now_ms, Pushing(subscription_id, codec, size, is_last), MOST)[0]


# -- what can be set -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        (
            [(SET, "interval.ms", "99")],
            InvalidChange,
            "Invalid value 99 for interval.ms, interval must be between 100 ",
        ),
        ([(SET, "interval.ms", "3600001")], InvalidChange, "Invalid value 3600001 for interval.ms"),
        ([(SET, "interval.ms", "x")], InvalidConfig, "Invalid value x for configuration interval.ms: Not a number"),
        ([(SET, "interval.ms", None)], InvalidChange, "Null value not supported for : interval.ms"),
        ([(SET, "nope", "1")], InvalidChange, "Unknown client metrics configuration: nope"),
        ([(SET, "metrics", "a,,b")], InvalidConfig, "Configuration 'metrics' values must not be empty."),
        ([(APPEND, "metrics", "a")], InvalidConfig, "Can't APPEND to key metrics because its type is not LIST."),
        ([(SUBTRACT, "match", "a")], InvalidConfig, "Can't SUBTRACT to key match because its type is not LIST."),
        ([(SET, "metrics", "a"), (DELETE, "metrics", None)], InvalidChange, "Error due to duplicate config keys"),
        ([(SET, "match", "client_id")], InvalidConfig, "Illegal client matching pattern: client_id"),
        ([(SET, "match", "client_id=")], InvalidConfig, "Illegal client matching pattern: client_id="),
        ([(SET, "match", "client_id=a=b")], InvalidConfig, "Illegal client matching pattern: client_id=a=b"),
        ([(SET, "match", "foo=x")], InvalidConfig, "Illegal client matching pattern: foo=x"),
    ],
)
def test_what_cannot_be_set_is_refused_in_kafkas_words(
    changes: list[tuple[int, str, str | None]], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as raised:
        altered({"metrics": "x"}, changes)
    assert sentence in str(raised.value)


def test_what_is_set_and_removed() -> None:
    configs = altered({}, [(SET, "metrics", "a.,b."), (SET, "interval.ms", " 500 "), (SET, "match", "client_id=a=")])
    assert configs == {"metrics": "a.,b.", "interval.ms": " 500 ", "match": "client_id=a="}
    assert altered(configs, [(DELETE, "nope", None), (DELETE, "metrics", None), (SET, "match", "")]) == {
        "interval.ms": " 500 ",
        "match": "",
    }


def test_every_key_is_described() -> None:
    found = {one.name: (one.value, one.source) for one in describe({"interval.ms": " 500 ", "match": "foo"})}
    assert found == {
        "interval.ms": ("500", ConfigSource.CLIENT_METRICS),
        "match": ("foo", ConfigSource.CLIENT_METRICS),  # as somebody wrote it
        "metrics": ("", ConfigSource.DEFAULT),
    }
    assert [one.name for one in describe({}, ["metrics", "zz"])] == ["metrics"]


@pytest.mark.parametrize(
    "text", ["client_id=a", "client_id = a , client_source_port=1.*", "client_id=a=,client_id=b", "", "client_id=.*"]
)
def test_the_form_that_sql_checks_takes_what_can_be_set(text: str) -> None:
    client_metrics.CLIENT_METRICS_KEYS["match"].parse(text)
    assert altered({}, [(SET, "match", text)])


@pytest.mark.parametrize("text", ["client_id", "client_id=", "client_id=a=b", "foo=a", "=a", "client_id=a,foo"])
def test_the_form_that_sql_checks_refuses_what_cannot(text: str) -> None:
    with pytest.raises(InvalidConfig):
        client_metrics.CLIENT_METRICS_KEYS["match"].parse(text)


# -- whom a subscription wants -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "wants"),
    [
        ("", True),
        ("client_id=app-1", True),
        ("client_id=app", False),  # the whole value
        ("client_id=app-.", True),
        ("client_id=x,client_id=app.*", True),  # the last one
        (" client_id = app-1 ", True),
        ("client_software_name=apache-.*,client_software_version=4[.].*", True),
        ("client_software_name=apache-.*,client_software_version=3[.].*", False),
        ("client_source_address=10[.]0[.]0[.]7,client_source_port=40000", True),
        (f"client_instance_id={shown(ME)}", True),
        (f"client_instance_id={ME}", False),
    ],
)
def test_all_of_match_has_to_match(match: str, wants: bool) -> None:
    assert subscription(match=match).wants(client()) is wants


def test_a_client_without_an_id_matches_no_expression_for_it() -> None:
    assert not subscription(match="client_id=.*").wants(client(client_id=None))
    assert subscription(match="client_source_port=.*").wants(client(client_id=None))


@pytest.mark.parametrize("expression", ["[", "(?!a)", "a{5}{5}{5}{5}{5}{5}{5}{5}{5}"])
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(InvalidConfig, match="Illegal client matching pattern: client_id="):
        subscription(match=f"client_id={expression}")


def test_an_expression_cannot_stall_the_broker() -> None:
    assert not subscription(match="client_id=(a*)*b").wants(client(client_id="a" * 10_000))


def test_what_the_database_has_is_used_or_told() -> None:
    found, faults = usable(
        {
            "b": {"metrics": "b."},
            "a": {"interval.ms": "[1]"},
            "c": {"metrics": "c.", "nope": "1"},
            "d": {"match": "client_id=["},
            "e": {"interval.ms": "1"},
        }
    )
    assert [one.name for one in found] == ["b"]
    assert [name for name, _ in faults] == ["a", "c", "d", "e"]
    assert "Not a number of type INT" in faults[0][1]
    assert faults[1][1] == "Unknown client metrics configuration: nope"
    assert "missing ]" in faults[2][1]


# -- instances -----------------------------------------------------------------------------------------------------------


def test_an_id_is_shown_as_kafka_shows_it() -> None:
    assert shown(ME) == "ABEiM0RVZneImaq7zN3u_w"


def test_all_subscriptions_that_match_count_together() -> None:
    of = instances(
        subscription("a", metrics="x.,y.", interval_ms="5000"),
        subscription("b", metrics="y.,z.", interval_ms="1000"),
        subscription("c", metrics="*", interval_ms="100", match="client_id=other"),
    )
    code, found = of.ask(ME, client(), Wire(), 0)
    assert (code, found.metrics, found.interval_ms) == (NONE, ("x.", "y.", "z."), 1000)
    assert -(2**31) <= found.subscription_id < 2**31


def test_all_metrics_are_all_metrics() -> None:
    assert instances(subscription(metrics="x.,*")).ask(ME, client(), Wire(), 0)[1].metrics == (ALL,)


def test_without_a_subscription_nothing_is_wanted() -> None:
    code, found = instances().ask(ME, client(), Wire(), 0)
    assert (code, found.metrics, found.interval_ms) == (NONE, (), 300_000)


def test_an_interval_of_an_hour_holds() -> None:
    assert instances(subscription(interval_ms="3600000")).ask(ME, client(), Wire(), 0)[1].interval_ms == 3_600_000


def test_the_number_is_the_same_on_every_broker_and_another_for_other_wishes() -> None:
    def number(*subscriptions: Subscription, of: UUID = ME) -> int:
        return instances(*subscriptions).ask(of, client(of), Wire(), 0)[1].subscription_id

    ours = number(subscription(metrics="a,b"))
    assert ours == number(subscription(metrics="b,a"), subscription("other", match="client_id=nobody"))
    others = [
        number(subscription(metrics="a")),
        number(subscription(metrics="a,b", interval_ms="1000")),
        number(subscription(metrics="a,b"), of=UUID(int=7)),
    ]
    assert ours not in others


def test_a_client_asks_once_in_an_interval() -> None:
    of, wire = instances(subscription(interval_ms="1000")), Wire()
    assert [of.ask(ME, client(), wire, now)[0] for now in (0, 999, 1000, 1999)] == [NONE, THROTTLED, NONE, THROTTLED]


def test_a_client_pushes_once_in_an_interval_and_when_it_likes_after_asking() -> None:
    of, wire = instances(subscription(interval_ms="1000")), Wire()
    number = of.ask(ME, client(), wire, 0)[1].subscription_id
    assert push(of, 1, number, wire) == NONE
    assert push(of, 1000, number, wire) == THROTTLED
    assert push(of, 1001, number, wire) == NONE
    assert of.ask(ME, client(), wire, 2000)[0] == THROTTLED
    assert of.ask(ME, client(), wire, 2001)[0] == NONE


def test_a_client_says_goodbye_when_it_likes_and_once() -> None:
    of, wire = instances(subscription(interval_ms="1000")), Wire()
    number = of.ask(ME, client(), wire, 0)[1].subscription_id
    assert push(of, 1, number, wire) == NONE
    assert push(of, 2, number, wire, is_last=True) == NONE
    assert push(of, 3, number, wire, is_last=True) == INVALID
    assert push(of, 4000, number, wire) == INVALID
    assert push(of, 5000, number, wire) == NONE  # as in Kafka: the one that was refused was not the last


def test_who_pushes_by_an_old_subscription_may_ask_at_once() -> None:
    of, wire = instances(subscription(interval_ms="1000")), Wire()
    number = of.ask(ME, client(), wire, 0)[1].subscription_id
    assert push(of, 10, number + 1, wire) == UNKNOWN
    assert of.ask(ME, client(), wire, 11)[0] == NONE
    assert of.ask(ME, client(), wire, 12)[0] == THROTTLED


def test_what_cannot_be_read_is_refused_before() -> None:
    of, wire = instances(subscription(interval_ms="1000")), Wire()
    number = of.ask(ME, client(), wire, 0)[1].subscription_id
    assert push(of, 1000, number, wire, codec=5) == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert of.ask(ME, client(), wire, 1001)[0] == NONE
    assert push(of, 2000, number, wire, codec=-1) == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert push(of, 3000, number, wire, size=MOST + 1) == ErrorCode.TELEMETRY_TOO_LARGE
    assert push(of, 4000, number, wire, size=MOST) == NONE


def test_changed_subscriptions_are_told_at_once() -> None:
    of, wire = instances(subscription(interval_ms="1000")), Wire()
    before = of.ask(ME, client(), wire, 0)[1].subscription_id
    of.renew([subscription(interval_ms="1000")])  # the same
    assert of.ask(ME, client(), wire, 1)[0] == THROTTLED
    of.renew([subscription(interval_ms="2000")])
    assert push(of, 2, before, wire) == UNKNOWN
    code, found = of.ask(ME, client(), wire, 3)
    assert (code, found.interval_ms) == (NONE, 2000)


@pytest.mark.parametrize("number", [0, 1])
def test_reserved_ids_are_refused(number: int) -> None:
    code, found = instances().push(UUID(int=number), client(), Wire(), 0, Pushing(0, 0, 0, False), MOST)
    assert (code, found) == (INVALID, None)


def test_who_comes_again_by_another_connection_may_ask_at_once() -> None:
    of, first, second = instances(subscription(interval_ms="1000")), Wire(), Wire()
    assert of.ask(ME, client(), first, 0)[0] == NONE
    assert of.ask(ME, client(), second, 1)[0] == THROTTLED  # both are there
    first.is_closed = True
    assert of.ask(ME, client(), second, 2)[0] == NONE
    assert of.ask(ME, client(), second, 3)[0] == THROTTLED


def test_a_client_that_is_unknown_may_push_what_all_brokers_tell() -> None:
    leader, next_one, wire = instances(subscription(metrics="a")), instances(subscription(metrics="a")), Wire()
    number = leader.ask(ME, client(), wire, 0)[1].subscription_id
    assert push(next_one, 5, number, wire) == NONE


def test_the_silent_are_forgotten() -> None:
    of, wire = instances(subscription(interval_ms="30000")), Wire()
    of.ask(ME, client(), wire, 0)
    assert of.forgotten(89_999) == []
    assert of.forgotten(90_000) == [ME]
    assert len(of) == 0


def test_of_too_many_the_longest_silent_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_INSTANCES", 3)
    of, ids = instances(), [uuid4() for _ in range(4)]
    for now, one in enumerate(ids[:3]):
        of.ask(one, client(one), Wire(), now)
    of.ask(ids[0], client(ids[0]), Wire(), 3)
    of.ask(ids[3], client(ids[3]), Wire(), 4)
    assert [one in of for one in ids] == [True, False, True, True]


class Clients(RuleBasedStateMachine):
    """Whatever clients do and operators change: nobody pushes twice in an interval without having asked in between."""

    @initialize()
    def begin(self) -> None:
        self.of = Instances()
        self.now = 0
        self.wires = {number: Wire() for number in range(3)}
        self.accepted: dict[UUID, list[tuple[int, str]]] = {}
        self.interval = 300_000

    @rule(interval=st.sampled_from([100, 1000, 60_000]), metrics=st.sampled_from(["a", "b", "*", ""]))
    def change(self, interval: int, metrics: str) -> None:
        before = self.of.subscriptions
        self.of.renew([subscription(interval_ms=str(interval), metrics=metrics)])
        self.interval = interval
        if before != self.of.subscriptions:
            self.accepted.clear()

    @rule(by=st.sampled_from([1, 99, 100, 999, 1000, 60_000, 200_000]))
    def go_on(self, by: int) -> None:
        self.now += by

    @rule(number=st.integers(0, 2))
    def lose_connection(self, number: int) -> None:
        self.wires[number].is_closed = True
        self.wires[number] = Wire()
        self.accepted.pop(UUID(int=number + 10), None)

    @rule()
    def forget(self) -> None:
        for one in self.of.forgotten(self.now):
            self.accepted.pop(one, None)

    @rule(number=st.integers(0, 2))
    def ask(self, number: int) -> None:
        one = UUID(int=number + 10)
        code, instance = self.of.ask(one, client(one), self.wires[number], self.now)
        if code == NONE:
            assert instance.interval_ms == self.interval
            self.accepted.setdefault(one, []).append((self.now, "ask"))

    @rule(
        number=st.integers(0, 2), is_last=st.booleans(), is_right=st.booleans(), size=st.sampled_from([0, 5, MOST + 1])
    )
    def push(self, number: int, is_last: bool, is_right: bool, size: int) -> None:
        one = UUID(int=number + 10)
        wanted = instances(*self.of.subscriptions).ask(one, client(one), Wire(), 0)[1].subscription_id
        what = Pushing(wanted if is_right else wanted ^ 1, 4, size, is_last)
        code, instance = self.of.push(one, client(one), self.wires[number], self.now, what, MOST)
        assert isinstance(instance, Instance)
        if code != NONE:
            return
        assert is_right and size <= MOST
        told = self.accepted.setdefault(one, [])
        if told and told[-1][1] == "push" and not is_last:
            assert self.now - told[-1][0] >= self.interval
        if not is_last:
            told.append((self.now, "push"))

    @invariant()
    def is_bounded(self) -> None:
        if hasattr(self, "of"):
            assert len(self.of) <= 3


TestClients = Clients.TestCase
TestClients.settings = settings(max_examples=5 * EXAMPLES, deadline=None)
