"""The way of `appvss freeze`: hold, command, thaw. Whatever happens on it, the hold ends first, all else comes after.

    the command waits at its gate
    ask for the hold -> all are held -> the command runs -> it ends -------------> thaw -> verdict
          |                                  |-> a signal ---------> thaw at once, terminate the command
          |                                  '-> the broker ends the hold -------> terminate the command
          '-> refused, or a signal: the command is not run

Every wait has a limit: the broker's own for the freeze, the hold and the verdict, ours for the command's end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from appvss.cli import render
from appvss.cli.held_command import CommandState, HeldCommand, Wakeup
from appvss.model.duration import format_duration
from appvss.model.errors import AppvssError, ExitCode
from appvss.model.filesystem import FilesystemChoice
from appvss.model.names import printable
from appvss.model.verdict import Level, Verdict
from appvss.sdk.admin import AdminClient
from appvss.sdk.admin_hold import ENDED_LIMIT, HELD_LIMIT, Hold
from appvss.sdk.admin_values import Held

LOAD_LIMIT: Final = timedelta(seconds=10)
"""How long the command's program may take to be looked up and read, before anything is frozen."""
TERMINATE_LIMIT: Final = timedelta(seconds=5)
"""How long the command may take to end after SIGTERM; then it is killed."""
KILL_LIMIT: Final = timedelta(seconds=5)
"""How long a killed command is waited for: one that the kernel does not let go is left behind."""
_GRACE: Final = timedelta(seconds=30)
"""How much longer than the hold limit the broker's word is waited for, before it counts as lost."""
_SIGNAL_BASE: Final = 128
_REQUESTER_SHOWN: Final = 80


@dataclass(slots=True)
class FreezeReport:
    """How it went."""

    command: tuple[str, ...]
    held: Held | None = None
    """None: the apps were not all frozen, and the command was not run."""
    verdict: Verdict | None = None
    """None: the broker has not given one."""
    command_exit_code: int | None = None
    """What the command said, negative for the signal that ended it. None: it was not run, or has not ended."""
    ended_early: bool = False
    """Whether the hold ended while the command was running."""
    signal: signal.Signals | None = None
    """The signal that ended it all."""
    error: AppvssError | None = None
    """Why there is no verdict, or why the command could not be started."""
    sentences: list[str] = field(default_factory=list)
    """What there is to say beside the verdict, in the order of its happening."""
    exit_code: int = ExitCode.SUCCESS


class FreezeRun:
    """One run of a command inside a hold.

    Args:
        client: the broker's.
        executable: the command's program.
        command: the command with its arguments.
        notes: what there is to say beforehand.
    """

    def __init__(self, client: AdminClient, executable: str, command: Sequence[str], notes: Sequence[str] = ()) -> None:
        self._client = client
        self._executable = executable
        self._report = FreezeReport(tuple(command), sentences=list(notes))
        self._wakeup = Wakeup()
        self._was_terminated = False

    def run(
        self, *, freeze_budget: timedelta | None, hold_limit: timedelta | None, filesystems: FilesystemChoice
    ) -> FreezeReport:
        """Do it.

        Raises:
            AppvssError: the command could not be loaded, the hold could not be asked for, or the broker went away
                before all were held. Nothing was run.
        """
        command = self._load()
        try:
            self._hold(command, freeze_budget, hold_limit, filesystems)
        finally:
            command.send_away(KILL_LIMIT)
        self._report.exit_code = self._exit_code()
        return self._report

    def _load(self) -> HeldCommand:
        try:
            command = HeldCommand(self._executable, self._report.command, os.environ)
        except (OSError, ValueError) as error:
            raise _unstartable(self._report.command[0], error, "Nothing was frozen.") from error
        try:
            if not command.wait_loaded(LOAD_LIMIT):
                raise AppvssError(
                    f"the command {printable(self._report.command[0])} was not loaded in {format_duration(LOAD_LIMIT)}",
                    "Nothing was frozen. See what its disk does.",
                )
        except BaseException:
            command.send_away(KILL_LIMIT)
            raise
        return command

    def _hold(
        self,
        command: HeldCommand,
        freeze_budget: timedelta | None,
        hold_limit: timedelta | None,
        filesystems: FilesystemChoice,
    ) -> None:
        requester = f"appvss freeze (user {os.getuid()}, process {os.getpid()}): {' '.join(self._report.command)}"
        with (
            self._wakeup,
            self._client.hold(
                printable(requester, _REQUESTER_SHOWN),
                freeze_budget=freeze_budget,
                hold_limit=hold_limit,
                filesystems=filesystems,
                notify=self._wakeup.wake,
            ) as hold,
        ):
            if self._wait_held(hold, HELD_LIMIT if freeze_budget is None else freeze_budget + ENDED_LIMIT):
                self._run_held(hold, command)

    def _wait_held(self, hold: Hold, limit: timedelta) -> bool:
        """Wait for the freeze. False: there is nothing to run the command in; the report says why."""
        report = self._report
        in_time = self._wakeup.wait(lambda: hold.held is not None or hold.is_over or bool(self._wakeup.signals), limit)
        if self._wakeup.signals:
            self._interrupt("the freeze was given up, the command was not run")
            return False
        if hold.error is not None:
            raise hold.error
        if not in_time:
            raise hold.give_up(limit)
        report.verdict = hold.verdict
        if report.verdict is not None:
            report.sentences.append("the apps are not held; the command was not run")
            return False
        report.held = hold.held
        return True

    def _run_held(self, hold: Hold, command: HeldCommand) -> None:
        held = self._report.held
        try:
            command.let_through(held.cycle if held else "")
            self._wait_command(hold, command)
        finally:
            hold.request_finish()
            self._end(command)
        self._take_verdict(hold)

    def _wait_command(self, hold: Hold, command: HeldCommand) -> None:
        """Wait until the command has ended, or must end."""
        report = self._report
        limit = (report.held.hold_limit if report.held else timedelta(0)) + _GRACE
        self._wakeup.wait(
            lambda: command.state is not CommandState.RUNNING or hold.is_over or bool(self._wakeup.signals), limit
        )
        if command.has_ended:
            return
        if self._wakeup.signals:
            self._interrupt("the hold was ended and the command terminated")
        elif command.state is CommandState.WANTS_TERMINAL:
            report.sentences.append("the command wants the terminal, which it cannot have in a hold; it was terminated")
        else:
            report.ended_early = True
            # At once, and not with the verdict: whoever looks on must know that the snapshot is worth nothing.
            render.note("appvss: the hold was ended before the command was done; the command is terminated")

    def _interrupt(self, what: str) -> None:
        self._report.signal = self._wakeup.signals[0]
        self._report.sentences.append(f"{self._report.signal.name}: {what}")

    def _end(self, command: HeldCommand) -> None:
        """See the command to its end. A second signal shortens the wait."""
        if not command.has_ended:
            self._was_terminated = True
            so_far = len(self._wakeup.signals)
            command.terminate()
            self._wakeup.wait(lambda: command.has_ended or len(self._wakeup.signals) > so_far, TERMINATE_LIMIT)
            command.kill()
            if not self._wakeup.wait(lambda: command.has_ended, KILL_LIMIT):
                self._report.sentences.append("the command could not be killed and is left behind")
        try:
            self._report.command_exit_code = code = command.collect()
        except OSError as error:
            self._report.error = _unstartable(self._report.command[0], error, "Everything was thawed.")
            self._report.sentences.append(self._report.error.sentence)
            return
        if code and not self._was_terminated:
            how = f"ended with code {code}" if code > 0 else f"was ended by {_signal_name(-code)}"
            self._report.sentences.append(f"the command {how}")

    def _take_verdict(self, hold: Hold) -> None:
        so_far = len(self._wakeup.signals)
        self._wakeup.wait(lambda: hold.is_over or len(self._wakeup.signals) > so_far, ENDED_LIMIT)
        if not hold.is_over and self._wakeup.signals and self._report.signal is None:
            self._interrupt("the verdict was not waited for")
        self._report.verdict = hold.verdict
        if hold.verdict is None:
            error = hold.error
            reason = error.sentence if error else "the broker has not said how the cycle ended"
            self._report.error = self._report.error or error
            self._report.sentences.append(f"there is no verdict: {reason}")

    def _exit_code(self) -> int:
        report = self._report
        if report.signal is not None:
            return _SIGNAL_BASE + report.signal
        if report.held is None:
            return ExitCode.REFUSED
        if report.ended_early:
            return ExitCode.NOT_CONSISTENT
        if report.command_exit_code != 0:
            return ExitCode.COMMAND_FAILED
        if report.verdict is None or report.verdict.level is not Level.APPLICATION:
            return ExitCode.NOT_CONSISTENT
        return ExitCode.SUCCESS


def _unstartable(name: str, error: OSError | ValueError, state: str) -> AppvssError:
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return AppvssError(
        f"the command {printable(name)} could not be started: {reason}", f"{state} Try the command by itself."
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
