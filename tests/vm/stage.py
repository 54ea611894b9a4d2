"""What stands in the guest in most tests: a broker, and an app with a database on the data disk."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from appvss.broker.configuration import DEFAULT_STATE_DIRECTORY
from tests.vm.guest import Guest, GuestError, Program

APP: Final = "sqlite-orders"
DATABASE: Final = "/data/orders.db"
MOUNTS: Final = ("/", "/data")
"""The file systems of the guest that can be written to and have a disk."""
VETO: Final = "/run/job.running"
"""As long as this file is there, the app of `vetoing` vetoes."""
IN_GUEST: Final = "/opt/appvss"
_CONFIGURATION: Final = "/run/broker.toml"
_BROKER: Final = '[broker]\nlog_level = "debug"\n'


class Stage:
    """A broker and its app, running.

    Args:
        guest: where they run.
        broker: the broker.
        app: the app: samples/sqlite_database.py with `DATABASE`.
    """

    def __init__(self, guest: Guest, broker: Program, app: Program) -> None:
        self.guest = guest
        self.broker = broker
        self.app = app

    def verdict(self, after: int = 0) -> tuple[str, str]:
        """Wait for the end of a cycle: its id, and its level with what is in brackets after it.

        Args:
            after: the lines of the broker's log that are passed over.
        """
        line = self.broker.line(r"appvss\.broker: cycle \S+: ", after=after)
        cycle, verdict = re.search(r"cycle (\S+): (.*)", line).groups()
        return cycle, verdict

    def cycle(self, cycle: str) -> dict[str, Any]:
        """All that `appvss show` knows of a cycle that has ended."""
        return asked(self.guest, "show", cycle)

    def log(self) -> str:
        """What broker and app have said until now, for whoever looks for a failure."""
        with suppress(GuestError):
            return "\n".join(["the broker:", *self.broker.said, "the app:", *self.app.said])
        return "the guest has ended"

    def mark(self) -> int:
        """How many lines the broker has written until now."""
        return len(self.broker.said)


def asked(guest: Guest, *command: str) -> dict[str, Any]:
    """The first JSON object that an `appvss` command in the guest writes."""
    return dict(json.loads(guest.check("appvss", *command, "--json").splitlines()[0]))


def start_broker(guest: Guest, configuration: str, command: Sequence[str] = ("appvss",)) -> Program:
    """Start a broker that says that it is ready."""
    guest.write(_CONFIGURATION, _BROKER + configuration)
    broker = guest.start(*command, "broker", "--config", _CONFIGURATION)
    broker.line("the broker is ready")
    return broker


@contextmanager
def staged(guest: Guest, configuration: str, command: Sequence[str] = ("appvss",)) -> Iterator[Stage]:
    """A broker without a past, and its app, which has registered.

    Args:
        guest: where.
        configuration: what follows in the broker's file after the table `[broker]`, or goes on with it.
        command: what stands in the place of `appvss`.
    """
    guest.check(
        "rm", "-rf", str(DEFAULT_STATE_DIRECTORY)
    )  # who took part in the last cycle of a former broker is missed
    broker = start_broker(guest, configuration, command)
    app = guest.start("python3", f"{IN_GUEST}/samples/sqlite_database.py", DATABASE, APP)
    stage = Stage(guest, broker, app)
    try:
        broker.line(f"{APP} has registered")
        yield stage
    except BaseException as error:
        error.add_note(stage.log())
        raise
    finally:
        for program in (app, stage.broker):
            end(program)


@contextmanager
def vetoing(stage: Stage) -> Iterator[None]:
    """One more app, which vetoes (samples/vetoing_job.py)."""
    stage.guest.write(VETO)
    job = stage.guest.start("python3", f"{IN_GUEST}/samples/vetoing_job.py", VETO)
    try:
        stage.broker.line("nightly-job has registered")
        yield
    finally:
        end(job)


def frozen(guest: Guest) -> list[bool]:
    """Which of `MOUNTS` are frozen."""
    return [guest.frozen(mount) for mount in MOUNTS]


def end(program: Program) -> None:
    """End a program with SIGTERM, or with SIGKILL when it does not listen."""
    with suppress(GuestError):  # it has ended before, or its guest has
        program.signal(signal.SIGTERM)
        try:
            program.wait(timeout=30)
        except GuestError:
            program.signal(signal.SIGKILL)
            program.wait()
