"""A cgroup as an app: its settings, its adapter, and the context manager without one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Final
from uuid import uuid4

from appvss.adapters import base, undo
from appvss.adapters.base import AutoRelease, Finding, Preflight, Properties, Severity, Volume, VolumeKind
from appvss.adapters.cgroup.tree import Group, Watch, below, forbidden, mount, named, opened, refuse_needed, state
from appvss.adapters.errors import AdapterError, HoldRefused, ServerUnfit, SettingInvalid
from appvss.adapters.exec.process import environment, run
from appvss.adapters.settings import setting
from appvss.adapters.undo import UndoRecord, Written
from appvss.adapters.waiting import to_the_end
from appvss.model.duration import format_duration
from appvss.model.errors import HoldLost
from appvss.model.names import printable
from appvss.sdk.freeze import Freeze

_UNIT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9:_.\\@-]*\.(service|slice|scope)")
_SYSTEMCTL_LIMIT: Final = timedelta(seconds=5)
_THAW_LIMIT: Final = timedelta(seconds=5)
_SHARE: Final = 0.9
"""Of the budget that is waited: what is left is for thawing again, and for saying why."""
_LEAST: Final = timedelta(milliseconds=10)
_FREEZER_HINT: Final = "Is the service running? The freezer of cgroups needs Linux 5.2 or newer."


@dataclass(frozen=True, slots=True)
class Settings:
    """Either `unit` or `cgroup`."""

    unit: str = setting("", "The systemd unit whose processes stand still.", example="shop.service", in_sample=True)
    cgroup: str = setting(
        "", "Instead of a unit: the cgroup, as /proc/PID/cgroup shows it, below the mount point of cgroup2."
    )
    volumes: tuple[str, ...] = setting((), "The folders that must be in the snapshot.", example=("/srv/shop",))
    systemctl: Path = setting(Path("/usr/bin/systemctl"), "Where systemctl(1) is.")


@dataclass(frozen=True, slots=True)
class Frozen:
    """One hold."""

    group: Group
    watch: Watch
    written: Written
    processes: frozenset[int] = frozenset()
    """Those that stand still."""
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """What has to be closed at its end."""


class Adapter(base.Adapter[Frozen]):
    """A cgroup of version 2 that is frozen while the snapshot is taken.

    Raises:
        SettingInvalid: both or neither of `unit` and `cgroup` are given, or not as they should be.
    """

    engine: ClassVar[str] = "cgroup"
    properties: ClassVar[Properties] = Properties(
        AutoRelease.NOBODY,
        holds_writes=True,
        blocks_reads_while_frozen=True,
        privileges=("write permission on cgroup.freeze (root, or a delegated cgroup)",),
        grade="fs",
    )

    def __init__(self, settings: Settings) -> None:
        if bool(settings.unit) == bool(settings.cgroup):
            raise SettingInvalid("neither or both of `unit` and `cgroup` are given", "Write one of the two.")
        if settings.unit and _UNIT.fullmatch(settings.unit) is None:
            raise SettingInvalid(f"{settings.unit!r} is no service, slice or scope", 'Write unit = "shop.service".')
        if settings.cgroup and not settings.cgroup.startswith("/"):
            raise SettingInvalid(f"the cgroup {settings.cgroup!r} has no slash in front", 'Write cgroup = "/shop".')
        self._settings = settings

    async def preflight(self) -> Preflight:
        """Whether the cgroup may be frozen. Freezes nothing."""
        findings = [
            Finding(
                Severity.WARNING,
                "flushes_nothing",
                "a frozen program keeps in its memory what it has not written: the copy is worth `fs`",
                "Take the adapter of the engine, or a program of your own (`exec`), if there is one for it.",
            )
        ]
        try:
            if self._settings.unit:
                findings += _watchdog(await self._show())
            with opened(await self._name()) as group:
                refuse_needed(group)
                if group.is_wanted_frozen:
                    raise ServerUnfit(f"{group.name} is frozen already", "Find out who has frozen it, and thaw it.")
                if not os.access(group.path / "cgroup.freeze", os.W_OK):
                    raise forbidden(group.name)
            undo.undo_directory(self.undo_directory)
        except AdapterError as error:
            findings.append(Finding(Severity.PROBLEM, "cgroup", error.sentence, error.hint))
        except OSError as error:
            findings.append(Finding(Severity.PROBLEM, "cgroup", f"it cannot be read: {error.strerror}", _FREEZER_HINT))
        volumes = tuple(Volume(VolumeKind.DATA, _resolved(each)) for each in self._settings.volumes)
        return Preflight(tuple(findings), f"Linux {os.uname().release}", volumes, recipe="cgroup freezer")

    async def hold(self, freeze: Freeze) -> Frozen:
        """Freeze it, and wait until the kernel says that all stand still.

        Raises:
            AdapterError: it may not be frozen, or is not in time; then it is thawed again, and a process that waits for
                a disk is named.
        """
        directory = undo.undo_directory(self.undo_directory)
        await undo.settle_own(self, directory)
        with contextlib.ExitStack() as stack:
            group = stack.enter_context(opened(await self._name()))
            refuse_needed(group)
            try:
                if group.is_wanted_frozen:
                    raise HoldRefused(f"{group.name} is frozen already", "Find out who has frozen it, and thaw it.")
                watch = Watch(group)
            except OSError as error:
                raise ServerUnfit(f"{group.name} cannot be read: {error.strerror}", _FREEZER_HINT) from error
            stack.callback(watch.close)
            what = {"unit": self._settings.unit, "cgroup": group.name, "inode": str(group.inode)}
            record = UndoRecord.of(self.app, self.engine, freeze.cycle, what)
            frozen = Frozen(group, watch, undo.write(directory, record))
            try:
                await self._freeze(frozen, max(_LEAST, freeze.budget_left() * _SHARE))
            except BaseException:
                await to_the_end(self._thaw(frozen))
                raise
            frozen = replace(frozen, processes=group.processes())
            frozen.opened.enter_context(stack.pop_all())
        return frozen

    async def _freeze(self, frozen: Frozen, limit: timedelta) -> None:
        group = frozen.group
        try:
            group.set_frozen(True)
            if await frozen.watch.wait(True, limit):
                frozen.watch.begin()
                return
        except PermissionError as error:
            raise forbidden(group.name) from error
        except OSError as error:
            raise HoldRefused(f"{group.name} cannot be frozen: {error.strerror}", "Is the service running?") from error
        waiting = [named(pid) for pid in sorted(group.processes()) if state(pid) == "D"]
        why = f"; these wait for a disk: {', '.join(waiting[:5])}" if waiting else ""
        raise HoldRefused(
            f"{group.name} does not stand still within {format_duration(limit)}{why}",
            "A process that waits for a frozen or slow disk cannot be frozen: freeze processes before file systems.",
        )

    def evidence(self, held: Frozen) -> Mapping[str, str]:
        """Which cgroup stands still. There is no position, and no marker: nothing was flushed."""
        return {
            "engine": self.engine,
            "version": f"Linux {os.uname().release}",
            "recipe": "cgroup freezer",
            "position": "",
            "marker": "",
            "data_directory": next(iter(self._settings.volumes), ""),
            "cgroup": printable(held.group.name, 256),
            "processes": str(len(held.processes)),
        }

    async def confirm(self, held: Frozen) -> None:
        """Show that nobody has thawed it, also not for a moment.

        Raises:
            HoldLost: somebody has, or has made another one in its place.
        """
        name = held.group.name
        try:
            changed = await held.watch.has_changed()
            frozen = held.watch.is_frozen() and held.group.is_wanted_frozen
            inode = os.stat(held.group.path).st_ino
        except OSError as error:
            raise HoldLost(f"the cgroup {name} is gone: {error.strerror}") from error
        if not frozen:
            raise HoldLost(f"the cgroup {name} was thawed by somebody else")
        if inode != held.group.inode:
            raise HoldLost(f"the cgroup {name} is another one than that which was frozen")
        if held.group.processes() != held.processes:
            raise HoldLost(
                f"the processes of the cgroup {name} are not those that were frozen: one was killed, or added"
            )
        if changed:
            raise HoldLost(f"the cgroup {name} did not stand still all the time: its cgroup.events has changed")

    async def release(self, held: Frozen, freeze: Freeze) -> None:
        """Thaw it. That waits for no disk, so it is done at once also while file systems may be frozen."""
        try:
            await to_the_end(self._thaw(held))
        finally:
            held.opened.close()

    async def _thaw(self, held: Frozen) -> None:
        try:
            held.group.set_frozen(False)
            await held.watch.wait(False, _THAW_LIMIT)
            still = held.group.is_wanted_frozen
        except OSError:
            still = _may_be_frozen(held.group)
        if still:
            held.written.leave()
            undo.settle_later(self, held.written.path.parent)
        else:
            held.written.forget()

    async def undo(self, record: Mapping[str, str]) -> None:
        """Thaw what an adapter has left frozen, if it is still the same.

        Raises:
            AdapterError: it cannot be thawed.
        """
        mount()  # where there is none to be seen, nobody can say that it is gone
        try:
            with opened(record["cgroup"]) as group:
                if str(group.inode) == record["inode"]:
                    group.set_frozen(False)
        except ServerUnfit as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return  # it is gone, and nothing of it is frozen
            raise
        except PermissionError as error:
            raise forbidden(record["cgroup"]) from error
        except OSError as error:
            raise HoldRefused(f"{record['cgroup']} cannot be thawed: {error.strerror}", "Thaw it by hand.") from error

    def is_of(self, record: Mapping[str, str]) -> bool:
        """Whether the record is about the configured unit or cgroup."""
        if not {"unit", "cgroup", "inode"} <= record.keys():
            return False
        if self._settings.unit:
            return record["unit"] == self._settings.unit
        return not record["unit"] and record["cgroup"] == below(self._settings.cgroup)

    async def _name(self) -> str:
        if not self._settings.unit:
            return below(self._settings.cgroup)
        name = (await self._show()).get("ControlGroup", "")
        if not name:
            raise ServerUnfit(f"the unit {self._settings.unit} has no processes", "Start it, or leave it out.")
        return name

    async def _show(self) -> dict[str, str]:
        """What systemd says about the unit.

        Raises:
            AdapterError: it says nothing.
        """
        command = (str(self._settings.systemctl), "show", "--property=ControlGroup,WatchdogUSec", self._settings.unit)
        done = await run(command, environment(self.app, "", "show"), _SYSTEMCTL_LIMIT, grace=timedelta(0))
        failure = done.failure("systemctl", _SYSTEMCTL_LIMIT)
        if failure:
            raise ServerUnfit(failure, f"Run `systemctl show {self._settings.unit}`; without systemd name the cgroup.")
        return dict(line.split("=", 1) for line in done.output.text().splitlines() if "=" in line)


def _may_be_frozen(group: Group) -> bool:
    """Whether a cgroup that could not be thawed has to be: not where it was never frozen, or is gone."""
    try:
        return group.is_wanted_frozen
    except OSError as error:
        return group.path.exists() and error.errno not in (errno.ENOENT, errno.ENODEV)  # they say: removed


def _watchdog(shown: Mapping[str, str]) -> list[Finding]:
    length = shown.get("WatchdogUSec", "0")
    if length in ("0", "infinity", ""):
        return []
    sentence = f"systemd restarts the unit when it does not report for {length}, and it does not while it is frozen"
    return [Finding(Severity.WARNING, "watchdog", sentence, "Keep freezes shorter, or take WatchdogSec= out.")]


def _resolved(path: str) -> Path:
    return Path(os.path.realpath(path))


@asynccontextmanager
async def quiesce(
    *,
    unit: str = "",
    cgroup: str = "",
    hold_limit: timedelta = timedelta(seconds=60),
    budget: timedelta = timedelta(seconds=30),
) -> AsyncIterator[Mapping[str, str]]:
    """Freeze the processes of a unit or of a cgroup, without broker and agent. The file system comes after them.

    Args:
        unit: a systemd unit, or
        cgroup: its name below the mount point.
        hold_limit: for the caller alone; nothing ends the freeze by itself.
        budget: the time for all to stand still.

    Raises:
        AdapterError: nothing is frozen.
        HoldLost: on leaving: somebody else has thawed it.
    """
    freeze = Freeze(cycle=uuid4().hex, requester="quiesce", budget=budget, hold_limit=hold_limit)
    async with Adapter(Settings(unit=unit, cgroup=cgroup)).quiesce(freeze) as evidence:
        yield evidence
