"""The janitor of a broker whose role cannot change the schema: the tests that are imported run as that role."""

from __future__ import annotations

from tests.least_privilege import pg_dsn, role  # noqa: F401
from tests.storage.test_janitor import (  # noqa: F401
    db,
    lanes,
    make_janitor,
    test_a_full_segment_is_followed_by_a_new_one_and_frozen,
    test_a_move_that_was_begun_is_finished_by_the_next_janitor,
    test_an_active_segment_is_frozen_as_it_grows,
    test_auto_compression_looks_at_the_records,
    test_checkpoints_take_bounded_space_under_a_held_snapshot,
    test_nothing_is_left_of_a_deleted_topic,
    test_segment_bytes_of_a_topic_count_in_its_own_series,
)
from tests.storage.test_lag_history import (  # noqa: F401
    control,
    janitor,
    test_a_minute_is_read_as_a_row_for_each_group_and_topic,
    test_tables_take_turns_and_the_oldest_is_emptied,
)
