"""Real forks of a real app with threads: before it serves, after, and in mid-hold."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from appvss.sdk.testing import BlockingFakeBroker
from tests.sdk.processes import Program, program


@pytest.fixture
def broker() -> Iterator[BlockingFakeBroker]:
    with BlockingFakeBroker() as started:
        yield started


@pytest.fixture
def parent(broker: BlockingFakeBroker) -> Iterator[Program]:
    with program("forking_app", "fork-later", directory=broker.runtime_directory) as started:
        yield started


def test_a_child_that_was_forked_before_serving_serves_for_itself(broker: BlockingFakeBroker) -> None:
    with program("forking_app", "fork-first", directory=broker.runtime_directory) as started:
        child_pid = started.hear()
        child, parent = broker.app("child"), broker.app("parent")
        assert child.incarnation != parent.incarnation
        assert child.freeze().evidence == {"pid": child_pid}
        assert parent.freeze().frozen
        assert child.thaw().unbroken
        assert parent.thaw().unbroken
        os.kill(int(child_pid), signal.SIGTERM)
        assert started.ask(f"wait {child_pid}") == "0"
        child.gone()
        assert parent.attached
        assert started.end() == (0, "", "")


def test_the_handle_is_dead_in_a_child_and_alive_in_the_parent(broker: BlockingFakeBroker, parent: Program) -> None:
    app = broker.app("parent")
    for _ in range(3):
        child = parent.ask("fork exit")
        assert parent.ask(f"wait {child}") == "0"
        assert app.freeze().frozen
        assert app.thaw().unbroken
    assert app.attachments == 1
    assert parent.end() == (0, "", "")
    app.gone()


def test_a_child_that_ends_in_mid_hold_does_not_end_the_hold(broker: BlockingFakeBroker, parent: Program) -> None:
    app = broker.app("parent")
    assert app.freeze().frozen
    child = parent.ask("fork exit")
    assert parent.ask(f"wait {child}") == "0"
    assert parent.ask("held") == "True"
    assert app.attached
    assert app.thaw().unbroken
    assert parent.ask("held") == "False"
    assert app.attachments == 1


def test_a_child_may_serve_while_its_parent_holds(broker: BlockingFakeBroker, parent: Program) -> None:
    app = broker.app("parent")
    assert app.freeze().frozen
    child_pid = parent.ask("fork serve")
    child = broker.app("child")
    assert child.incarnation != app.incarnation
    assert child.freeze().evidence == {"pid": child_pid}
    assert app.thaw().unbroken
    assert child.thaw().unbroken
    os.kill(int(child_pid), signal.SIGTERM)
    assert parent.ask(f"wait {child_pid}") == "0"
    child.gone()
    assert parent.end() == (0, "", "")


def test_the_death_of_a_parent_is_seen_while_its_child_lives(broker: BlockingFakeBroker, parent: Program) -> None:
    app = broker.app("parent")
    child = int(parent.ask("fork stay"))
    try:
        assert app.freeze().frozen
        parent.process.kill()
        app.gone()
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
