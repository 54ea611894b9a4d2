"""Real processes that are stopped, killed and ended, and say nothing on their own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from appvss.sdk.testing import BlockingFakeBroker
from tests.sdk.processes import program

KINDS = ["async", "threads"]
LIMIT = timedelta(milliseconds=300)


@pytest.fixture
def broker() -> Iterator[BlockingFakeBroker]:
    with BlockingFakeBroker() as started:
        yield started


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_app_is_gone_at_once(broker: BlockingFakeBroker, kind: str) -> None:
    with program("held_app", kind, directory=broker.runtime_directory) as running:
        app = broker.app("app")
        assert app.freeze("one").frozen
        running.process.kill()
        app.gone(within=timedelta(seconds=5))
    with program("held_app", kind, directory=broker.runtime_directory):
        assert app.returned() is None
        again = app.thaw("one")
        assert (again.unbroken, again.reason) == (False, "this app holds nothing for cycle one")


@pytest.mark.parametrize("kind", KINDS)
def test_an_app_that_was_stopped_past_its_limit_does_not_claim_its_hold(broker: BlockingFakeBroker, kind: str) -> None:
    with program("held_app", kind, directory=broker.runtime_directory) as running:
        app = broker.app("app")
        assert app.freeze("one", hold_limit=LIMIT).frozen
        assert running.hear() == "frozen one"
        running.process.send_signal(signal.SIGSTOP)
        # The limit passes by the clock while the app cannot run: no event tells of it.
        threading.Event().wait(2 * LIMIT.total_seconds())
        running.process.send_signal(signal.SIGCONT)
        thawed = app.thaw("one")
        assert (thawed.unbroken, thawed.reason) == (False, "the hold limit of 300.0ms passed before a thaw came")
        assert app.hold_lost("one") == thawed.reason
        assert running.hear() == "thawed one"


@pytest.mark.parametrize("kind", KINDS)
def test_an_app_that_was_stopped_within_its_limit_holds(broker: BlockingFakeBroker, kind: str) -> None:
    with program("held_app", kind, directory=broker.runtime_directory) as running:
        app = broker.app("app")
        assert app.freeze("one").frozen
        running.process.send_signal(signal.SIGSTOP)
        broker.stop()
        broker.start()
        running.process.send_signal(signal.SIGCONT)
        claim = app.returned()
        assert claim is not None
        assert claim.cycle == "one"
        assert app.thaw("one").unbroken


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_that_dies_does_not_keep_the_app_frozen(broker: BlockingFakeBroker, kind: str) -> None:
    with program("held_app", kind, directory=broker.runtime_directory) as running:
        app = broker.app("app")
        assert app.freeze("one", hold_limit=LIMIT).frozen
        assert running.hear() == "frozen one"
        broker.stop()
        assert running.hear() == "thawed one"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_printed_whatever_happens(broker: BlockingFakeBroker, kind: str) -> None:
    with program("held_app", kind, directory=broker.runtime_directory) as running:
        app = broker.app("app")
        assert app.freeze("one").frozen
        assert running.hear() == "frozen one"
        app.disconnect()
        app.returned()
        broker.stop("an update")
        broker.start()
        app.returned()
        assert app.thaw("one").unbroken
        assert running.hear() == "thawed one"
        running.process.send_signal(signal.SIGINT)
        assert running.end() == (0, "", "")
        app.gone()


def test_a_forgotten_handle_lets_go_at_the_end_of_the_process(broker: BlockingFakeBroker) -> None:
    with program("held_app", "forgotten", directory=broker.runtime_directory) as running:
        app = broker.app("app")
        assert app.freeze("one").frozen
        assert running.hear() == "frozen one"
        running.tell("end")
        assert running.end() == (0, "thawed one\n", "")
        assert app.hold_lost() == "the app is stopping"
        app.gone()
