"""The observer of the matrix finds what the logs belie, and holds against nobody what the test itself has caused."""

from __future__ import annotations

import pytest

from tests.end_to_end.support.write_log import SECOND, Quiet, Write, WriteLog
from tests.faults.requesting import Told
from tests.faults.verdicts import Observer, Past

FROZEN = Quiet(since=10 * SECOND, budget=SECOND, hold_limit=2 * SECOND, frozen=10 * SECOND, released=11 * SECOND)
TOLD = Told("local", cycle="c1", acked=10 * SECOND + 1, thaw_asked=11 * SECOND - 1, level="application")


def log_of(*instants: float, quiet: Quiet = FROZEN) -> WriteLog:
    """An app that was frozen from 10 s to 11 s, and wrote at these seconds."""
    writes = tuple(Write(int(at * SECOND), int(at * SECOND) + 1) for at in instants)
    return WriteLog("orders", writes, (quiet,))


def observer(log: WriteLog, *unable: tuple[int, int]) -> Observer:
    return Observer([log], {"orders": unable})


def test_a_hold_without_a_write_is_no_lie() -> None:
    assert list(observer(log_of(9, 11)).lies([TOLD], [Past("c1", "local", "application")])) == []


def test_a_write_in_the_hold_is_a_lie_of_whoever_calls_it_application() -> None:
    judge = observer(log_of(9, 10.5, 11))
    (told, past) = judge.lies([TOLD], [Past("c1", "local", "application")])
    assert told == "local was told application: orders wrote 1 times in the hold"
    assert past.startswith("the history calls c1 application")
    assert list(judge.lies([Told("local", "c1", TOLD.acked, TOLD.thaw_asked, "crash")], [])) == []


@pytest.mark.parametrize("source", ["local", "freebsd"])
def test_a_hold_that_no_requester_had_is_a_lie_of_the_history(source: str) -> None:
    assert len(list(observer(log_of(9, 11)).lies([], [Past("c1", source, "application")]))) == 1
    assert list(observer(log_of(9, 11)).lies([], [Past("c1", source, "crash")])) == []


def test_a_host_has_as_many_good_cycles_as_good_holds() -> None:
    host = Told("freebsd", acked=TOLD.acked, thaw_asked=TOLD.thaw_asked, level="application")
    cycles = [Past("c1", "freebsd", "application"), Past("c2", "freebsd", "application")]
    assert list(observer(log_of(9, 11)).lies([host], cycles[:1])) == []
    assert len(list(observer(log_of(9, 11)).lies([host], cycles))) == 1


def test_an_app_that_writes_too_late_after_its_limit_is_found() -> None:
    assert list(observer(log_of(9, 12.9)).overstays()) == []
    (sentence,) = observer(log_of(9, 13.5)).overstays()
    assert sentence.startswith("orders wrote again 1.50 s after its limit")
    assert observer(log_of(9, 13.5)).longest() == 1.5 * SECOND


def test_what_the_test_kept_from_writing_is_late_only_from_then_on() -> None:
    stopped = (10 * SECOND, 20 * SECOND)
    assert list(observer(log_of(9, 20.5), stopped).overstays()) == []
    assert len(list(observer(log_of(9, 21.5), stopped).overstays())) == 1
