"""How long a broker has been silent goes by the clock of whoever watches, between looks that were answered."""

from pg_kafka.cluster.silence import MAX_PAUSE_S, Silence


def test_first_look_knows_nothing() -> None:
    assert Silence().look(1, 7, 1000.0, 1000.1) == 0


def test_time_without_a_change_adds_up() -> None:
    silence = Silence()
    for second in range(5):
        silence.look(1, 7, float(second), float(second))
    assert silence.look(1, 7, 5.0, 5.0) == 5


def test_any_change_is_life() -> None:
    silence = Silence()
    silence.look(1, (7, "12:00"), 0.0, 0.0)
    silence.look(1, (7, "12:00"), 1.0, 1.0)
    assert silence.look(1, (7, "11:00"), 2.0, 2.0) == 0
    assert silence.look(1, (8, "11:00"), 3.0, 3.0) == 0


def test_wait_for_an_answer_counts_neither_way() -> None:
    """The database stood still for ten seconds, and so nobody could show life there."""
    silence = Silence()
    silence.look(1, 7, 0.0, 0.0)
    assert silence.look(1, 7, 1.0, 11.0) == 1
    assert silence.look(1, 7, 12.0, 12.0) == 2


def test_long_pause_counts_as_a_short_one() -> None:
    """The watcher itself stood still, or could not reach the database."""
    silence = Silence()
    silence.look(1, 7, 0.0, 0.0)
    assert silence.look(1, 7, 3600.0, 3600.0) == MAX_PAUSE_S


def test_each_broker_is_watched_for_itself() -> None:
    silence = Silence()
    silence.look(1, 7, 0.0, 0.0)
    silence.look(2, 7, 0.5, 0.5)
    assert silence.look(1, 7, 1.0, 1.0) == 1
    assert silence.look(2, 7, 1.0, 1.0) == 0.5
    silence.forget_others({2})
    assert silence.look(1, 7, 2.0, 2.0) == 0
    assert silence.look(2, 7, 2.0, 2.0) == 1.5
