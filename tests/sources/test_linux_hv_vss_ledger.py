"""The one open operation: its times, and what becomes of answers that come in time, late, or for another."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.model.filesystem import FilesystemChoice, Scope
from appvss.model.instant import Instant
from appvss.model.policy import Overlap
from appvss.model.request import RequestKind
from appvss.sources.device_thread import Silence
from appvss.sources.linux_hv_vss import LinuxHvVssSettings
from appvss.sources.linux_vss.ledger import GRACE, Ledger, Reply, TooLate, Unheard
from appvss.sources.wire.linux_hv_vss import FAILURE, SUCCESS, Operation

NOW = Instant(timedelta(hours=7))
SETTINGS = LinuxHvVssSettings(hold_limit=timedelta(seconds=40), overlap=Overlap.QUEUE)


def ledger_on(release: str = "6.1", settings: LinuxHvVssSettings = SETTINGS) -> Ledger:
    return Ledger(settings, settings.budgets(release))


def test_a_freeze_asks_for_all_file_systems_and_the_others_for_none() -> None:
    freeze = ledger_on().admit(Operation.FREEZE, NOW)
    assert (freeze.kind, freeze.deadline) == (RequestKind.FREEZE, NOW + timedelta(seconds=60))
    assert (freeze.reserve, freeze.hold_limit) == (timedelta(seconds=15), timedelta(seconds=40))
    assert (freeze.filesystems, freeze.overlap) == (FilesystemChoice(Scope.ALL), Overlap.QUEUE)
    for operation, kind in ((Operation.HOT_BACKUP, RequestKind.CHECK), (Operation.THAW, RequestKind.THAW)):
        request = ledger_on().admit(operation, NOW)
        assert (request.kind, request.filesystems.scope) == (kind, Scope.NONE)
        assert (request.deadline, request.reserve) == (NOW + timedelta(seconds=25), timedelta(0))


def test_on_an_old_kernel_there_are_8_seconds_for_everything() -> None:
    for operation in (Operation.HOT_BACKUP, Operation.FREEZE, Operation.THAW):
        request = ledger_on("4.9.0").admit(operation, NOW)
        assert request.deadline == NOW + timedelta(seconds=8)
        assert request.reserve in (timedelta(0), timedelta(seconds=4))


@pytest.mark.parametrize(("go_on", "status"), [(True, SUCCESS), (False, FAILURE)])
def test_an_answer_closes_the_request(go_on: bool, status: int) -> None:
    ledger = ledger_on()
    request = ledger.admit(Operation.FREEZE, NOW)
    assert ledger.next_expiry() == request.deadline + GRACE
    assert ledger.settle(request.id, go_on=go_on, now=NOW) == Reply(request, status)
    assert ledger.next_expiry() is None
    assert isinstance(ledger.settle(request.id, go_on=False, now=NOW), Silence)


def test_an_answer_to_nothing_is_not_given() -> None:
    ledger = ledger_on()
    assert isinstance(ledger.settle("1", go_on=True, now=NOW), Silence)
    ledger.admit(Operation.FREEZE, NOW)
    assert isinstance(ledger.settle("4711", go_on=True, now=NOW), Silence)
    assert ledger.next_expiry() is not None


def test_an_answer_that_is_a_little_late_is_still_true() -> None:
    """The kernel waits much longer than we do: what holds, holds."""
    ledger = ledger_on()
    request = ledger.admit(Operation.FREEZE, NOW)
    assert ledger.settle(request.id, go_on=True, now=request.deadline + GRACE) == Reply(request, SUCCESS)


def test_what_is_not_answered_is_refused_and_a_yes_after_it_is_unheard() -> None:
    ledger = ledger_on()
    request = ledger.admit(Operation.FREEZE, NOW)
    assert ledger.expire(request.deadline + GRACE - timedelta.resolution) is None
    assert ledger.expire(request.deadline + GRACE) == Reply(request, FAILURE)
    assert ledger.expire(request.deadline + GRACE) is None
    assert isinstance(ledger.settle(request.id, go_on=False, now=NOW), Silence)
    assert ledger.settle(request.id, go_on=True, now=NOW) == Unheard(request)


def test_what_the_kernel_has_given_up_is_not_answered() -> None:
    ledger = ledger_on()
    assert ledger.give_up() is None
    request = ledger.admit(Operation.FREEZE, NOW)
    assert ledger.give_up() == request
    thaw = ledger.admit(Operation.THAW, NOW)
    assert ledger.settle(request.id, go_on=True, now=NOW) == Unheard(request)
    assert ledger.settle(thaw.id, go_on=True, now=NOW) == Reply(thaw, SUCCESS)


@pytest.mark.parametrize(
    ("release", "operation", "seconds"),
    [
        ("6.1", Operation.FREEZE, 897.5),
        ("6.1", Operation.THAW, 27.5),
        ("6.1", Operation.HOT_BACKUP, 27.5),
        ("4.9", Operation.FREEZE, 9),
        ("4.9", Operation.THAW, 9),
    ],
)
def test_near_the_kernels_limit_nothing_is_written_any_more(release: str, operation: Operation, seconds: float) -> None:
    unsure = NOW + timedelta(seconds=seconds)
    for go_on in (True, False):
        ledger = ledger_on(release)
        request = ledger.admit(operation, NOW)
        assert ledger.settle(request.id, go_on=go_on, now=unsure) == TooLate(request)
    ledger = ledger_on(release)
    request = ledger.admit(operation, NOW)
    assert ledger.expire(unsure) == TooLate(request)
    ledger = ledger_on(release)
    request = ledger.admit(operation, NOW)
    assert ledger.settle(request.id, go_on=True, now=unsure - timedelta.resolution) == Reply(request, SUCCESS)


def test_the_longest_freeze_is_refused_before_the_kernel_gives_it_up() -> None:
    settings = LinuxHvVssSettings(freeze_budget=timedelta(seconds=895))
    ledger = ledger_on(settings=settings)
    request = ledger.admit(Operation.FREEZE, NOW)
    expiry = ledger.next_expiry()
    assert expiry is not None
    assert ledger.expire(expiry) == Reply(request, FAILURE)


def test_after_a_thaw_of_nobody_the_hosts_own_is_refused_once() -> None:
    ledger = ledger_on()
    fake = ledger.admit(Operation.THAW, NOW)
    assert ledger.settle(fake.id, go_on=True, now=NOW) == Reply(fake, SUCCESS)
    ledger.refused_thaw()
    check = ledger.admit(Operation.HOT_BACKUP, NOW)
    assert ledger.settle(check.id, go_on=True, now=NOW) == Reply(check, SUCCESS)
    for status in (FAILURE, SUCCESS):
        thaw = ledger.admit(Operation.THAW, NOW)
        assert ledger.settle(thaw.id, go_on=True, now=NOW) == Reply(thaw, status)


def test_a_freeze_after_a_thaw_of_nobody_begins_anew() -> None:
    ledger = ledger_on()
    ledger.refused_thaw()
    freeze = ledger.admit(Operation.FREEZE, NOW)
    assert ledger.settle(freeze.id, go_on=True, now=NOW) == Reply(freeze, SUCCESS)
    thaw = ledger.admit(Operation.THAW, NOW)
    assert ledger.settle(thaw.id, go_on=True, now=NOW) == Reply(thaw, SUCCESS)
