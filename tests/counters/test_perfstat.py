"""The lines of `perf stat`: which are counts, and which are refused."""

from __future__ import annotations

import pytest

from kvmharness.counters.perf import PerfError
from kvmharness.counters.perfstat import Event, parse_counts


def test_counts_are_matched_in_order() -> None:
    text = (
        "started on ...\n"
        '{"counter-value" : "12.000000", "event" : "a", "pcnt-running" : 100.00}\n'
        '{"counter-value" : "<not supported>", "event" : "b", "pcnt-running" : 0.00}\n'
    )
    events = [Event("first", "a"), Event("second", "b")]
    assert parse_counts(text, events) == ({"first": 12}, {"second": "perf says <not supported>"})


def test_what_was_counted_part_of_the_time_is_no_count() -> None:
    # A line of perf 6.1 on a CPU whose counters were shared by more events than it has.
    text = (
        '{"counter-value" : "412507.000000", "unit" : "", "event" : "cycles:G", '
        '"event-runtime" : 10321, "pcnt-running" : 2.04, "metric-value" : 0.000000, '
        '"metric-unit" : ""}\n'
    )
    counts, absent = parse_counts(text, [Event("cycles:G", "cycles:G")])
    assert counts == {}
    assert absent == {"cycles:G": "counted 2.04 % of the time only, the rest is a guess"}


@pytest.mark.parametrize("text", ["", "{}", '{"counter-value": 1}\n{"counter-value": 2}', "{x"])
def test_other_output_is_refused(text: str) -> None:
    with pytest.raises(PerfError, match="perf stat"):
        parse_counts(text, [Event("a", "a")])
