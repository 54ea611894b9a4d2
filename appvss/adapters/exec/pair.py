"""The way of two commands: `freeze` ends and leaves something held, `thaw` lets go of it.

Nobody but `thaw` ends such a hold, so an undo record is written first, and `thaw` runs always: also after a `freeze`
that failed or ran out of time. How `thaw` ends says what the hold was worth: 0, it was in force all the time; 3, it was
not, and nothing is held any more; anything else, or no end, and it runs again later.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from appvss.adapters import base, undo
from appvss.adapters.base import Finding, Preflight, Severity
from appvss.adapters.errors import AdapterError, HoldRefused
from appvss.adapters.exec.conversation import entries
from appvss.adapters.exec.process import Done, environment, run
from appvss.adapters.exec.settings import Settings
from appvss.adapters.exec.trust import trusted
from appvss.adapters.undo import UndoRecord, Written
from appvss.adapters.waiting import to_the_end
from appvss.model.errors import HoldLost
from appvss.sdk.freeze import Freeze, Prepare

LOST: Final = 3
"""The exit code of a `thaw` that has let go of a hold that was not in force any more."""
_SHARE: Final = 0.9
_LEAST: Final = timedelta(milliseconds=1)


@dataclass(slots=True)
class Paired:
    """One hold."""

    cycle: str
    written: Written
    directory: Path
    content: Mapping[str, str] = field(default_factory=dict)
    """What `freeze` said of it, if the last line that it printed is a JSON object."""
    thawing: asyncio.Task[str] | None = None
    """The `thaw`, once it was begun. Its result: why the hold was none, or empty."""


class Pair:
    """Cycles of two commands.

    Args:
        settings: with `freeze` and `thaw`.
        owner: whose holds they are.
    """

    def __init__(self, settings: Settings, owner: base.Adapter[Any]) -> None:
        self._settings = settings
        self._owner = owner

    @property
    def _app(self) -> str:
        return self._owner.app or self._owner.engine

    def identity(self) -> str:
        """Which `thaw` is configured. A record has this in it, and not the command."""
        return hashlib.sha256(json.dumps(self._settings.thaw).encode()).hexdigest()

    def preflight(self) -> Preflight:
        """What can be seen without running anything."""
        findings = [
            Finding(
                Severity.WARNING,
                "cannot_hold_a_session",
                "`freeze` and `thaw` are two programs: a lock of a database session ends with the first one",
                "Use `command` for anything that takes a lock; the pair is for what stays as it was set.",
            )
        ]
        for command in (self._settings.prepare, self._settings.freeze, self._settings.thaw):
            try:
                if command:
                    with trusted(command):
                        pass
            except AdapterError as error:
                findings.append(Finding(Severity.PROBLEM, "program", error.sentence, error.hint))
        try:
            undo.undo_directory(self._owner.undo_directory)
        except AdapterError as error:
            findings.append(Finding(Severity.PROBLEM, "undo_directory", error.sentence, error.hint))
        return Preflight(tuple(findings))

    async def prepare(self, prepare: Prepare) -> None:
        """Run the command for the slow work, if there is one.

        Raises:
            AdapterError: it cannot.
        """
        if self._settings.prepare:
            limit = max(_LEAST, prepare.budget_left() * _SHARE)
            variables = self._variables(prepare.cycle, "prepare", APPVSS_BUDGET=_seconds(limit))
            done = await run(self._settings.prepare, variables, limit, grace=self._grace(limit))
            _refuse(done, "prepare", limit)

    async def hold(self, freeze: Freeze) -> Paired:
        """Run `freeze`.

        Raises:
            AdapterError: it failed; `thaw` has run.
        """
        directory = undo.undo_directory(self._owner.undo_directory)
        await undo.settle_own(self._owner, directory)
        with trusted(self._settings.thaw):
            pass  # rather no hold than one that cannot be ended
        what = {"thaw": self.identity(), "cycle": freeze.cycle}
        written = undo.write(directory, UndoRecord.of(self._app, self._owner.engine, freeze.cycle, what))
        held = Paired(freeze.cycle, written, directory)
        try:
            held.content = await self._freeze(freeze, held.written)
        except BaseException:
            with suppress(AdapterError):
                await self._thawed(held)
            raise
        return held

    async def _freeze(self, freeze: Freeze, written: Written) -> Mapping[str, str]:
        limit = max(_LEAST, freeze.budget_left() * _SHARE)
        times = {"APPVSS_BUDGET": _seconds(limit), "APPVSS_HOLD_LIMIT": _seconds(freeze.hold_limit)}
        variables = self._variables(freeze.cycle, "freeze", **times)
        with written.kept_from_others() as lock:
            done = await run(self._settings.freeze, variables, limit, grace=self._grace(limit), lock=lock)
        _refuse(done, "freeze", limit)
        try:
            return entries(json.loads(done.output.last_line()))
        except (ValueError, RecursionError, AdapterError):
            return {}  # it has nothing to say, or says it to people

    async def confirm(self, held: Paired) -> None:
        """Run `thaw`: it alone may know.

        Raises:
            HoldLost: it says so, or nobody can tell.
        """
        try:
            lost = await self._thawed(held)
        except AdapterError as error:
            raise HoldLost(error.sentence) from error
        if lost:
            raise HoldLost(lost)

    async def release(self, held: Paired, freeze: Freeze) -> None:
        """Run `thaw`, if it has not run yet. If file systems may be frozen it runs later, and nobody waits for it."""
        if held.thawing is not None:
            return  # `confirm` has seen to it, whatever has become of it
        if freeze.filesystem_freeze.is_set():
            held.written.leave()
            undo.settle_later(self._owner, held.directory)
            return
        with suppress(AdapterError):
            await self._thawed(held)

    async def undo(self, record: Mapping[str, str]) -> None:
        """Run `thaw` for a hold that was left behind.

        Raises:
            HoldRefused: it does not end well.
        """
        await self._run_thaw(record.get("cycle", ""), "undo")

    def _thaw(self, held: Paired) -> asyncio.Task[str]:
        """The `thaw` of a hold: it runs once."""
        if held.thawing is None:
            held.thawing = asyncio.create_task(self._run_thaw(held.cycle, "thaw"), name="exec thaw")
        return held.thawing

    async def _thawed(self, held: Paired) -> str:
        """Run `thaw`, if it has not begun, and wait for its end, also when cancelled.

        Raises:
            AdapterError: something may be held still; the record is left.
        """
        thawing = self._thaw(held)
        try:
            return await to_the_end(thawing)
        finally:
            if thawing.cancelled() or thawing.exception() is not None:
                held.written.leave()
                undo.settle_later(self._owner, held.directory)
            else:
                held.written.forget()

    async def _run_thaw(self, cycle: str, step: str) -> str:
        limit = self._settings.thaw_limit
        done = await run(self._settings.thaw, self._variables(cycle, step), limit, grace=self._settings.grace)
        if done.ended.code == LOST and not done.timed_out:
            return f"the thaw command says that the hold was lost: {done.errors.in_brief() or 'it gives no reason'}"
        failure = done.failure("thaw", limit)
        if done.ended.code == 0 and not done.timed_out and not done.ended.stuck:
            return failure  # it has let go; if it has left a process behind, the hold is not to be believed
        raise HoldRefused(failure, "It runs again; run it by hand to see why it fails.")

    def _variables(self, cycle: str, step: str, **more: str) -> dict[str, str]:
        return environment(self._app, cycle, step, self._settings.environment, **more)

    def _grace(self, limit: timedelta) -> timedelta:
        return min(self._settings.grace, limit / 9)  # of the tenth of the budget that is left


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():.3f}"


def _refuse(done: Done, name: str, limit: timedelta) -> None:
    failure = done.failure(name, limit)
    if failure:
        raise HoldRefused(failure, "Run it by hand to see why; docs/engines/exec.md says what it finds around it.")
