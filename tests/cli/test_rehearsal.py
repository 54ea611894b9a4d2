"""What some rehearsals say together."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from appvss.cli import rehearsal
from appvss.cli.rehearsal import figures, report
from appvss.cycle.state import ANSWER_MARGIN
from appvss.model.app import AppId
from appvss.model.verdict import Level, Outcome, Verdict
from appvss.sdk.admin_cycles import Rehearsal, rehearsal_of
from appvss.sdk.admin_values import AppStatus, SourceStatus, app_of, status_of
from tests.sdk.broker_peer import FAILED, GOOD, HELD, VETOED, apps, status
from tests.sdk.broker_peer import rehearsal as message

SECOND = timedelta(seconds=1)
ORDERS = AppId("orders-db", "eu")


def length(milliseconds: float) -> timedelta:
    return timedelta(milliseconds=milliseconds)


def done(verdict: Verdict = GOOD, time_to_freeze: timedelta = SECOND) -> Rehearsal:
    return rehearsal_of(message(verdict, time_to_freeze))


def known() -> tuple[tuple[AppStatus, ...], tuple[SourceStatus, ...]]:
    return tuple(app_of(app) for app in apps()), status_of(status()).sources


def test_the_margin_is_the_cycles_own() -> None:
    assert rehearsal.ANSWER_MARGIN == ANSWER_MARGIN


@pytest.mark.parametrize(
    ("count", "p50", "p99"), [(1, 1, 1), (2, 1, 2), (3, 2, 3), (5, 3, 5), (99, 50, 99), (100, 50, 99), (1000, 500, 990)]
)
def test_percentiles_are_lengths_that_were_measured(count: int, p50: int, p99: int) -> None:
    found = figures([length(number) for number in range(count, 0, -1)])
    assert found is not None
    assert (found.count, found.p50, found.p99, found.most) == (count, length(p50), length(p99), length(count))


def test_no_lengths_have_no_figures() -> None:
    assert figures([]) is None


def test_each_app_has_its_figures_its_outcomes_and_its_last_reason() -> None:
    slow = replace(HELD, time_to_freeze=length(40))
    together = report([done(), done(Verdict("c-2", Level.FAILED, (slow, VETOED), ("no",))), done()], *known())
    orders, web = together.apps
    assert (orders.app, orders.outcomes, orders.reason) == (ORDERS, {Outcome.HELD: 3}, "")
    assert orders.time_to_freeze is not None
    assert (orders.time_to_freeze.p50, orders.time_to_freeze.most) == (length(12), length(40))
    assert (web.outcomes, web.time_to_freeze, web.reason) == ({Outcome.VETOED: 1}, None, "a deployment is running")
    assert not together.all_held


def test_a_source_fits_when_the_p99_of_the_whole_is_within_its_limit() -> None:
    apps_there, sources = known()
    serving = tuple(replace(source, condition="serving") for source in sources)
    exact = timedelta(seconds=10) - ANSWER_MARGIN
    for time_to_freeze, fits in ((exact, True), (exact + timedelta(microseconds=1), False)):
        together = report([done(), done(time_to_freeze=time_to_freeze)], apps_there, serving)
        freebsd, local = together.sources
        assert (freebsd.source, freebsd.limit, freebsd.margin) == ("freebsd", exact, exact - time_to_freeze)
        assert (freebsd.fits, local.fits, together.fits) == (fits, True, fits)


def test_a_source_that_waits_for_a_device_that_it_need_not_have_does_not_count() -> None:
    together = report([done(time_to_freeze=11 * SECOND)], *known())
    freebsd, local = together.sources
    assert (freebsd.fits, freebsd.counts, local.counts, together.fits) == (False, False, True, True)
    lost = [replace(source, condition="lost") for source in known()[1]]
    assert not report([done(time_to_freeze=11 * SECOND)], known()[0], lost).fits


def test_a_source_that_is_off_is_left_out() -> None:
    off = [replace(source, condition="off") for source in known()[1]]
    assert report([done()], known()[0], off).sources == ()


def test_an_apps_own_limit_is_counted_from_its_ack_so_what_freezes_after_it_takes_from_the_hold() -> None:
    early = replace(HELD, hold=5 * SECOND)  # it had waited for two seconds when the last app had acked
    together = report([done(replace(GOOD, outcomes=(early,), hold=3 * SECOND))], *known())
    freebsd, local = together.sources
    assert (local.safe_hold, local.shortest) == (58 * SECOND, ORDERS)
    assert freebsd.safe_hold == 53 * SECOND


def test_an_app_whose_limit_is_shorter_than_the_freeze_of_the_others_makes_it_unfit() -> None:
    early = replace(HELD, hold=70 * SECOND)
    together = report([done(replace(GOOD, outcomes=(early,), hold=3 * SECOND))], *known())
    assert not together.fits


def test_without_any_app_there_is_nothing_to_fit() -> None:
    together = report([done(Verdict("c-1", Level.CRASH, (), ("no app was held",)), timedelta(0))], (), known()[1])
    assert (together.time_to_freeze, together.apps, together.all_held) == (None, (), False)
    assert together.fits


def test_a_broker_that_does_not_say_its_limits_is_not_judged() -> None:
    silent = [replace(source, budget=None, hold_limit=None) for source in known()[1]]
    together = report([done(FAILED)], known()[0], silent)
    assert [(fit.limit, fit.margin, fit.fits) for fit in together.sources] == [(None, None, True)] * 2
