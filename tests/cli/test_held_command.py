from __future__ import annotations

import os
import shutil
import signal
import threading
from datetime import timedelta

import pytest

from appvss.cli.held_command import CommandState, HeldCommand, Wakeup
from tests.sdk.broker_peer import BOUND

LIMIT = timedelta(seconds=BOUND)
SHELL = shutil.which("sh") or "/bin/sh"


def test_a_wait_ends_at_its_limit() -> None:
    with Wakeup() as wakeup:
        assert not wakeup.wait(lambda: False, timedelta(milliseconds=1))


def test_a_condition_that_holds_is_not_waited_for() -> None:
    with Wakeup() as wakeup:
        assert wakeup.wait(lambda: True, timedelta(0))


def test_another_thread_ends_a_wait() -> None:
    news: list[str] = []

    def tell() -> None:
        news.append("news")
        wakeup.wake()

    with Wakeup() as wakeup:
        thread = threading.Thread(target=tell)
        thread.start()
        assert wakeup.wait(lambda: bool(news), LIMIT)
        thread.join()


def test_any_number_of_wakes_is_no_harm_and_one_after_the_end_neither() -> None:
    with Wakeup() as wakeup:
        for _ in range(100_000):
            wakeup.wake()
        assert wakeup.wait(lambda: True, LIMIT)
    wakeup.wake()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_counted_and_the_former_handler_comes_back(number: signal.Signals) -> None:
    former = signal.getsignal(number)
    with Wakeup() as wakeup:
        os.kill(os.getpid(), number)
        assert wakeup.wait(lambda: bool(wakeup.signals), LIMIT)
        assert wakeup.signals == [number]
    assert signal.getsignal(number) is former


def test_a_command_from_its_start_to_its_collection() -> None:
    with Wakeup() as wakeup:
        command = HeldCommand(SHELL, ["sh", "-c", "kill -STOP $$"], {})
        assert command.collect() is None
        assert command.state is CommandState.RUNNING
        command.terminate()
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        assert command.collect() == -signal.SIGTERM
        assert command.has_ended
        command.kill()  # harmless: there is nobody left


def test_the_exit_code_is_the_commands_own() -> None:
    with Wakeup() as wakeup:
        command = HeldCommand(SHELL, ["sh", "-c", "exit $CODE"], {"CODE": "5"})
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        assert command.collect() == 5


def test_ending_the_command_does_not_end_us() -> None:
    with Wakeup() as wakeup:
        command = HeldCommand(SHELL, ["sh", "-c", "kill -STOP $$"], {})
        command.kill()
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        assert command.collect() == -signal.SIGKILL
        assert wakeup.signals == []


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        HeldCommand("/nowhere/program", ["program"], {})
