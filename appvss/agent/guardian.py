"""The guardian of the agent: a process of its own that ends holds when the agent cannot.

It is started before anything is held, in a session of its own, passes over the signals that end a service, and reads
what the agent says of its apps (`lines.py`). It acts in two cases:

- A hold lasts longer than its limit, and the agent has not ended it: the app's process is killed, and what it has left
  is undone.
- The agent has died, however: its pipe has ended. The apps' processes, which see that as well, have a bounded time to
  let go and leave; then they are killed, and what they have left is undone.

It holds no secret and no connection: to undo is the work of a short process of its own (`child.py`), with the rights of
the app's user. It writes to the agent's log, which may lie on a disk that is frozen, when nothing is left to do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, Final

from appvss.agent.lines import LineReader, message_of
from appvss.agent.process import PYTHON, UNDO_ATTEMPTS, UNDO_MARGIN, environment_of, identity_of
from appvss.agent.undo_places import has_records
from appvss.agent.users import user_of

MARGIN: Final = timedelta(seconds=6)
"""How much longer than its limit a hold may last: the app first, then the agent, have their chance before."""
LEAVE_LIMIT: Final = timedelta(seconds=10)
"""How long the apps may take to leave when the agent has died."""
_UNDO_PAUSE: Final = timedelta(seconds=1)
_LAST_UNDO_PAUSE: Final = timedelta(minutes=1)
ORDER_MOST: Final = 2 * 1024 * 1024
"""Bytes of a message: more than the order of an app can have, whose section is part of a file of `FILE_LIMIT` bytes."""
RECORDS_MOST: Final = 1_000
"""Records of the log that may wait; when more come they are written at once."""
_GLANCE: Final = timedelta(milliseconds=100)
_LOG: Final = logging.getLogger("appvss.agent.guardian")


def _now() -> float:
    return time.monotonic()


@dataclass(slots=True)
class _App:
    """What the guardian knows of one app."""

    order: str = ""
    """What a process that undoes is given."""
    runs_as: str = ""
    pid: int = 0
    handle: int = -1
    """A descriptor of the process (pidfd_open(2)), so that no other of its number is ever meant; -1: there is none."""
    deadline: float | None = None
    """When its hold must have ended; None: it holds nothing."""
    undo_limit: float = 0.0
    """Seconds that one undo may take."""
    undo_at: float | None = None
    """When to undo what it has left; None: nothing was found."""
    undoing: _Undoing | None = None
    attempts: int = 0
    give_up_at: float = 0.0
    """Until then it is tried at least: a process of the dead agent may be undoing it, and fail."""

    def is_alive(self) -> bool:
        if self.handle >= 0:
            return not select.select([self.handle], [], [], 0)[0]
        if not self.pid:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def kill(self) -> None:
        """End its process now, with its group."""
        if self.pid and self.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def forget_process(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
        self.pid, self.handle = 0, -1


@dataclass(slots=True)
class Guardian:
    """What the guardian does with what it hears, one step at a time."""

    undo_directory: Path
    apps: dict[str, _App] = field(default_factory=dict)

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take one message of the agent."""
        for verb, act in _ACTS.items():
            if verb in message:
                key = str(message[verb])
                act(self.apps.setdefault(key, _App()), message)

    def overdue(self) -> None:
        """End the holds that last too long, and undo what they have left."""
        for key, app in self.apps.items():
            if app.deadline is not None and _now() > app.deadline:
                app.deadline = None
                app.undo_at, app.attempts = _now(), 0
                _LOG.error("%s: its hold has not ended at its limit, and the agent has not ended it", key)
                app.kill()
            if app.undoing is not None:
                self._look_at_undoing(key, app, app.undoing)
            elif app.undo_at is not None and _now() >= app.undo_at and not app.is_alive():
                self._undo(key, app)

    def next_step(self) -> float | None:
        """Seconds until `overdue` has something to do; None: never, as it is."""
        due = [each for app in self.apps.values() for each in (app.deadline, app.undo_at) if each is not None]
        due += [_now() for app in self.apps.values() if app.undoing is not None]
        return max(_GLANCE.total_seconds(), min(due) - _now()) if due else None

    def take_over(self) -> None:
        """The agent is dead: see to it that every app lets go, or is undone. Bounded."""
        limit = _now() + LEAVE_LIMIT.total_seconds()
        for app in self.apps.values():
            app.undo_at, app.attempts = _now(), 0
        while _now() < limit and any(app.is_alive() for app in self.apps.values()):
            self.overdue()  # who is dead already waits for nobody
            time.sleep(_GLANCE.total_seconds())
        for key, app in self.apps.items():
            if app.is_alive():
                _LOG.error("%s: the agent is dead, and it has not left; it is killed", key)
                app.kill()
            app.deadline, app.undo_at, app.attempts = None, _now(), 0
        while (pause := self.next_step()) is not None:
            time.sleep(min(pause, _UNDO_PAUSE.total_seconds()))
            self.overdue()

    def _undo(self, key: str, app: _App) -> None:
        if not app.order or not has_records(self.undo_directory, key):
            app.undo_at = None
            return
        limit = app.undo_limit + UNDO_MARGIN.total_seconds()
        if not app.attempts:
            app.give_up_at = _now() + limit
        app.attempts += 1
        app.undo_at = None  # what is found to be undone meanwhile is another hold
        app.undoing = _Undoing(app.order, app.runs_as, limit)
        with contextlib.suppress(
            RuntimeError
        ):  # this machine has no room for a thread: it has failed, and is tried again
            app.undoing.start()

    def _look_at_undoing(self, key: str, app: _App, undoing: _Undoing) -> None:
        if undoing.is_alive():
            return
        app.undoing = None
        if not undoing.failure:
            _LOG.warning("%s: what it had left behind is undone", key)
        elif app.attempts >= UNDO_ATTEMPTS and _now() >= app.give_up_at:
            _LOG.error("%s: a hold was left behind and is not undone: %s", key, undoing.failure)
        elif app.undo_at is None:
            pause = min(_UNDO_PAUSE * max(1, app.attempts - UNDO_ATTEMPTS), _LAST_UNDO_PAUSE)
            app.undo_at = _now() + pause.total_seconds()


class _Undoing(threading.Thread):
    """A process that undoes what one app has left. A thread waits for it, since it may take long, and the hold of
    another app may have to be ended meanwhile.
    """

    def __init__(self, order: str, runs_as: str, limit: float) -> None:
        super().__init__(name="undo", daemon=True)
        self._order, self._runs_as, self._limit = order, runs_as, limit
        self.failure = "nobody knows what became of it"
        """Why it is not undone; empty: it is."""

    def run(self) -> None:
        try:
            user = user_of(self._runs_as)
            done = subprocess.run(
                [*PYTHON, "appvss.agent.child", "undo"],
                input=self._order + "\n",
                capture_output=True,
                text=True,
                timeout=self._limit,
                check=False,
                env={**os.environ, **environment_of(user)},
                **identity_of(user),
            )
        except (OSError, LookupError, subprocess.TimeoutExpired) as error:
            self.failure = f"{type(error).__name__}: {error}"
        else:
            self.failure = "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or "it gives no reason"


def _note_app(app: _App, message: Mapping[str, Any]) -> None:
    app.order, app.runs_as, app.undo_limit = message["order"], message["runs_as"], message["undo_limit"]


def _note_child(app: _App, message: Mapping[str, Any]) -> None:
    app.forget_process()
    app.deadline = None
    app.pid = message["pid"]
    try:
        app.handle = os.pidfd_open(app.pid)
    except ProcessLookupError:  # it is gone, and its number may soon be another one's
        app.pid = 0
    except (OSError, AttributeError):
        return  # this machine has no such descriptors


def _note_gone(app: _App, _message: Mapping[str, Any]) -> None:
    app.forget_process()
    app.deadline = app.undo_at = app.undoing = None  # the agent has seen to it


def _note_hold(app: _App, message: Mapping[str, Any]) -> None:
    app.deadline = _now() + message["limit"] + MARGIN.total_seconds()


def _note_rest(app: _App, _message: Mapping[str, Any]) -> None:
    app.deadline = None


_ACTS: Final = {
    "app": _note_app,
    "child": _note_child,
    "gone": _note_gone,
    "hold": _note_hold,
    "rest": _note_rest,
}


def main(arguments: list[str]) -> int:
    """Guard until the agent's pipe, which is standard input, has ended; the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    log = _log_in_memory()
    guardian, reader = Guardian(Path(arguments[0])), LineReader(ORDER_MOST)
    os.write(1, b"ready\n")
    while True:
        readable, _, _ = select.select([0], [], [], guardian.next_step())
        if readable:
            content = os.read(0, 64 * 1024)
            if not content:
                break
            for line in reader.take(content):
                guardian.hear(message_of(line))
        guardian.overdue()
        if guardian.next_step() is None:
            log.flush()
    guardian.take_over()
    log.flush()
    return 0


def _log_in_memory() -> MemoryHandler:
    stream = logging.StreamHandler()
    stream.setFormatter(logging.Formatter("%(levelname)s guardian: %(message)s"))
    log = MemoryHandler(RECORDS_MOST, flushLevel=logging.CRITICAL + 1, target=stream)
    logging.getLogger().addHandler(log)
    return log


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
