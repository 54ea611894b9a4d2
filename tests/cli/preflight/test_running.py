"""What a running broker says of itself and of its apps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.cli.preflight import running
from appvss.cli.preflight.finding import Finding, Grade, Plan
from appvss.model.app import Requirement
from appvss.sdk.admin_values import AppStatus, BrokerStatus, HistoryStatus, app_of, status_of
from tests.sdk.broker_peer import apps, status

SECOND = timedelta(seconds=1)


def known() -> BrokerStatus:
    value = status_of(status())
    return replace(value, sources=tuple(replace(source, condition="serving") for source in value.sources))


def app(**fields: object) -> AppStatus:
    value = app_of(apps()[0])
    return replace(value, failures_in_row=0, freeze_timeout=None, hold_limit=timedelta(hours=1), **fields)  # type: ignore[arg-type]


def grades(findings: Iterable[Finding]) -> list[tuple[Grade, str]]:
    return [(one.grade, one.sentence) for one in findings]


def test_a_broker_of_this_version_and_of_another() -> None:
    assert {one.grade for one in running.broker(known(), "appvss/0.1.0")} == {Grade.OK}
    (_, other) = running.broker(known(), "appvss/9.9.9")
    assert (other.grade, other.sentence) == (
        Grade.WARNING,
        "the broker is appvss/0.1.0, and this command is appvss/9.9.9",
    )


def test_a_broker_with_another_configuration_and_another_state_directory() -> None:
    plan = Plan(
        Path("/run/appvss"), Path("/var/lib/appvss"), "", 1, Path("/dev/x"), "off", SECOND, known().configuration
    )
    assert list(running.agreement(known(), plan)) == []
    first, second = running.agreement(known(), replace(plan, origin="", state_directory=Path("/elsewhere")))
    assert "and built-in values was looked at" in first.sentence
    assert second.sentence == "the broker keeps its state in /var/lib/appvss, and not in /elsewhere"


@pytest.mark.parametrize("condition", ["failing", "in_memory"])
def test_a_history_that_is_not_kept(condition: str) -> None:
    broken = replace(known(), history=HistoryStatus("/var/lib/appvss", condition, "the disk is full", 3, 2))
    (found,) = running.history(broken)
    assert (found.grade, found.sentence.endswith(": the disk is full")) == (Grade.PROBLEM, True)
    (good,) = running.history(known())
    assert good.grade is Grade.OK
    assert list(running.history(replace(known(), history=HistoryStatus("", "")))) == []


def test_sources_that_serve_wait_or_are_lost() -> None:
    freebsd, local = known().sources
    waiting = replace(freebsd, condition="waiting", mode="automatic")
    needed = replace(waiting, mode="required", detail="/dev/x is not there")
    lost = replace(local, condition="lost")
    found = list(running.sources(replace(known(), sources=(freebsd, waiting, needed, lost))))
    assert [one.grade for one in found] == [Grade.OK, Grade.OK, Grade.PROBLEM, Grade.PROBLEM]
    assert found[2].sentence == "freebsd is waiting: /dev/x is not there"


def test_an_app_that_is_missing_is_a_problem_and_none_at_all_is_a_warning() -> None:
    (found,) = running.apps(known(), [app()])
    assert (found.grade, "billing" in found.sentence) == (Grade.PROBLEM, True)
    nobody = replace(known(), absent_apps=(), apps=0)
    (found,) = running.apps(nobody, [])
    assert (found.grade, "no app is registered" in found.sentence) == (Grade.WARNING, True)


@pytest.mark.parametrize(
    ("fields", "grade", "text"),
    [
        ({"failures_in_row": 1, "last_error": "no ack"}, Grade.WARNING, "has failed its last freeze: no ack"),
        ({"failures_in_row": 3}, Grade.PROBLEM, "has failed its last 3 freezes: no reason"),
        ({"failures_in_row": 3, "requirement": Requirement.TOLERATED}, Grade.WARNING, "(tolerated) has failed"),
        ({"failures_in_row": 3, "set_aside": "it failed"}, Grade.WARNING, "is set aside: it failed"),
    ],
)
def test_apps_that_fail(fields: dict[str, object], grade: Grade, text: str) -> None:
    whole = replace(known(), absent_apps=())
    found = list(running.apps(whole, [replace(app(), **fields)]))[-1]  # type: ignore[arg-type]  # as a test writes it
    assert (found.grade, text in found.sentence) == (grade, True)


def test_limits_that_fit_are_one_line() -> None:
    (found,) = running.limits(known(), [app()])
    assert found.grade is Grade.OK


def test_an_app_that_needs_more_than_a_source_gives() -> None:
    needy = replace(app(), freeze_timeout=12 * SECOND)
    assert grades(running.limits(known(), [needy])) == [
        (
            Grade.PROBLEM,
            "orders-db[eu] needs 12.0s to freeze, and freebsd gives 9.9s for all apps together: "
            "every such freeze fails",
        )
    ]
    lesser = replace(needy, requirement=Requirement.TOLERATED)
    ((grade, text),) = grades(running.limits(known(), [lesser]))
    assert (grade, text.endswith("it would be left out")) == (Grade.WARNING, True)


def test_apps_that_need_more_one_after_the_other_than_a_source_gives() -> None:
    first, second = (
        replace(app(), order=1, freeze_timeout=6 * SECOND),
        replace(app(), order=2, freeze_timeout=6 * SECOND),
    )
    ((grade, text),) = grades(running.limits(known(), [first, second]))
    assert (grade, text.startswith("the apps together need more time")) == (Grade.PROBLEM, True)
    together = [first, replace(second, order=1)]
    assert grades(running.limits(known(), together))[0][0] is Grade.OK


def test_a_source_that_only_waits_makes_no_problem() -> None:
    freebsd, local = known().sources
    waiting = replace(known(), sources=(replace(freebsd, condition="waiting"), local))
    needy = replace(app(), freeze_timeout=12 * SECOND)
    assert [grade for grade, _ in grades(running.limits(waiting, [needy]))] == [Grade.WARNING]


def test_an_app_that_holds_for_less_than_a_source_may_ask() -> None:
    found = grades(running.limits(known(), [replace(app(), hold_limit=30 * SECOND)]))
    assert [grade for grade, _ in found] == [Grade.WARNING, Grade.WARNING]
    assert found[0][1] == "freebsd may hold for 1m00s, and orders-db[eu] lets go by itself after 30.0s"
