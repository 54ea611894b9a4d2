"""A database of a slapd as an app: its adapter, and the context manager without one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Final
from uuid import uuid4

from appvss.adapters import base, undo
from appvss.adapters.base import AutoRelease, Finding, Preflight, Properties, Severity, Volume, VolumeKind
from appvss.adapters.errors import AdapterError, HoldRefused
from appvss.adapters.openldap.directory import Database, Directory, Switch
from appvss.adapters.openldap.settings import Recipe, Settings
from appvss.adapters.settings import NO_SECRET, Secret
from appvss.adapters.undo import UndoRecord, Written
from appvss.adapters.waiting import to_the_end
from appvss.model.errors import HoldLost
from appvss.model.names import printable
from appvss.sdk.freeze import Freeze

_HINT: Final = (
    "Somebody has made it read-only, or an adapter has died in a hold and its record is gone: see who, and set it to"
    " FALSE."
)


@dataclass(slots=True)
class Held:
    """One hold."""

    directory: Directory
    database: Database
    switch: Switch | None = None
    """What was switched on, as it was before."""
    written: Written | None = None
    is_thawed: bool = False
    """The hold has ended in its time: slapd may be asked again."""


class Adapter(base.Adapter[Held]):
    """One database of a slapd. By default nothing is held; with a switch it is read-only."""

    engine: ClassVar[str] = "openldap"
    properties: ClassVar[Properties] = Properties(
        AutoRelease.NOTHING_HELD,
        holds_writes=False,
        blocks_reads_while_frozen=False,
        privileges=("read on the database and on cn=config; with a switch, write on it",),
        settings_read=("olcDbDirectory", "olcDbNoSync", "olcDbEnvFlags"),
        grade="fs",
    )
    """Of recipe `none`; with a switch, writers are kept out, nobody frees it, and the grade is `app`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        if settings.recipe is not Recipe.NONE:
            self.properties = replace(  # type: ignore[misc]  # what holds for these settings
                type(self).properties, auto_release=AutoRelease.NOBODY, holds_writes=True, grade="app"
            )

    async def preflight(self) -> Preflight:
        """What would go wrong, as far as slapd tells without being changed."""
        findings: list[Finding] = []
        database = None
        try:
            async with self._connected() as directory:
                database = await directory.look()
                findings += _about(database, self._settings.recipe)
                if self._settings.recipe is not Recipe.NONE:
                    switch = await directory.switch(self._settings.recipe)
                    if switch.is_on:
                        raise HoldRefused(f"{switch.attribute} of {database.suffix} is TRUE already", _HINT)
                    undo.undo_directory(self.undo_directory)
        except AdapterError as error:
            findings.append(Finding(Severity.PROBLEM, "server", error.sentence, error.hint))
        if database is None:
            return Preflight(tuple(findings), recipe=self._settings.recipe.value)
        path = database.directory or self._settings.data_directory
        volumes = (Volume(VolumeKind.DATA, _resolved(path)),) if path else ()
        return Preflight(tuple(findings), database.version, volumes, database.settings, self._settings.recipe.value)

    async def hold(self, freeze: Freeze) -> Held:
        """Read where the database stands; with a switch, make it read-only first.

        Raises:
            AdapterError: it cannot be done; nothing is held.
        """
        if self._settings.recipe is Recipe.NONE:
            async with self._connected() as directory:
                return Held(directory, await directory.look())
        records = undo.undo_directory(self.undo_directory)
        await undo.settle_own(self, records)
        directory = Directory(self._settings)
        try:
            await directory.connect()
            switch = await directory.switch(self._settings.recipe)
            if switch.is_on:
                raise HoldRefused(f"{switch.attribute} is TRUE already", _HINT)
            what = {
                "uri": self._settings.uri,
                "suffix": self._settings.suffix,
                "dn": switch.dn,
                "recipe": self._settings.recipe.value,
                "before": switch.value,
            }
            written = undo.write(records, UndoRecord.of(self.app, self.engine, freeze.cycle, what))
            try:
                await directory.set(switch, "TRUE")
                return Held(directory, await directory.look(), switch, written)
            except BaseException:
                await to_the_end(self._restore(directory, switch, written))
                raise
        except BaseException:
            directory.drop()
            raise

    def evidence(self, held: Held) -> Mapping[str, str]:
        """The position. There is no marker: nothing is written for the cycle."""
        return {
            "engine": self.engine,
            "version": held.database.version,
            "recipe": self._settings.recipe.value,
            "position": printable(held.database.position, 256),
            "marker": "",
            "data_directory": held.database.directory or self._settings.data_directory,
            "suffix": printable(held.database.suffix, 256),
            "entries": held.database.entries,
        }

    async def confirm(self, held: Held) -> None:
        """Show, on the same connection, that the database is read-only still and stands where it stood.

        Raises:
            HoldLost: it is not, or nobody can tell.
        """
        held.is_thawed = True
        if held.switch is None:
            return  # nothing was held: there is nothing that could be lost
        try:
            switch = await held.directory.switch(self._settings.recipe)
            database = await held.directory.look()
        except AdapterError as error:
            raise HoldLost(error.sentence) from error
        if not switch.is_on:
            raise HoldLost(f"{switch.attribute} of {database.suffix} was set to FALSE by somebody else")
        if (database.position, database.entries) != (held.database.position, held.database.entries):
            raise HoldLost(f"{database.suffix} was written to in the hold: its contextCSN or its entries have changed")

    async def release(self, held: Held, freeze: Freeze) -> None:
        """Make it writable again. If file systems may be frozen, that is done later: slapd writes to a disk for it."""
        if held.switch is None or held.written is None:
            return
        try:
            if freeze.filesystem_freeze.is_set() and not held.is_thawed:
                held.written.leave()
                undo.settle_later(self, held.written.path.parent)
            else:
                await to_the_end(self._restore(held.directory, held.switch, held.written))
        finally:
            held.directory.drop()

    async def _restore(self, directory: Directory, switch: Switch, written: Written) -> None:
        try:
            try:
                await directory.set(switch, _before(switch.value))
            except AdapterError:  # that connection is of no use any more
                await self.undo(written.record.what)
        except AdapterError:
            written.leave()
            undo.settle_later(self, written.path.parent)
        else:
            written.forget()

    async def undo(self, record: Mapping[str, str]) -> None:
        """Make writable again what an adapter has left read-only.

        Raises:
            AdapterError: it cannot be done.
        """
        async with self._connected() as directory:
            switch = await directory.switch(Recipe(record["recipe"]))
            if switch.is_on:
                await directory.set(switch, _before(record["before"]))

    def is_of(self, record: Mapping[str, str]) -> bool:
        """Whether it is the configured database of the configured slapd that the record is about."""
        known = {each.value for each in Recipe} - {Recipe.NONE.value}
        mine = (self._settings.uri, self._settings.suffix)
        return (
            (record.get("uri"), record.get("suffix")) == mine and record.get("recipe") in known and "before" in record
        )

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Directory]:
        directory = Directory(self._settings)
        try:
            await directory.connect()
            yield directory
        finally:
            directory.drop()


def _before(value: str) -> str:
    """What it is set to again: as it was, and never read-only."""
    return "FALSE" if value else ""


def _about(database: Database, recipe: Recipe) -> list[Finding]:
    findings = []
    if recipe is Recipe.NONE:
        sentence = "nothing is held: slapd is crash safe, and what the file-system freeze catches is worth `fs`"
        findings.append(Finding(Severity.OK, "crash_safe", sentence))
    else:
        sentence = "writers get an error in the hold, they do not wait (unwillingToPerform)"
        hint = 'Have them try again, or take recipe = "none", which loses nothing.'
        findings.append(Finding(Severity.WARNING, "writers_fail", sentence, hint))
    if recipe is Recipe.CONFIG:
        sentence = "olcReadOnly is on the disk: it survives a crash of the machine, and it is in the copy"
        hint = 'Set it to FALSE after a restore; recipe = "monitor" leaves no such trace.'
        findings.append(Finding(Severity.WARNING, "read_only_is_stored", sentence, hint))
    if not database.position:
        sentence = f"{database.suffix} has no contextCSN, so there is no position"
        findings.append(
            Finding(Severity.WARNING, "no_position", sentence, "Add the overlay syncprov (slapo-syncprov(5)).")
        )
    if database.settings.get("olcDbNoSync", "").upper() == "TRUE":
        sentence = "olcDbNoSync is TRUE: a snapshot without a file-system freeze loses what was acknowledged"
        findings.append(Finding(Severity.WARNING, "no_sync", sentence, "Freeze its file system, or set it to FALSE."))
    if not database.directory:
        sentence = "the account does not see where the database is"
        findings.append(
            Finding(Severity.WARNING, "volumes_unknown", sentence, "Let it read cn=config, or set data_directory.")
        )
    return findings


def _resolved(path: str) -> Path:
    return Path(os.path.realpath(path))


@asynccontextmanager
async def quiesce(
    uri: str = "ldapi:///",
    *,
    suffix: str = "",
    bind_dn: str = "",
    password: Secret = NO_SECRET,
    recipe: Recipe = Recipe.NONE,
    hold_limit: timedelta = timedelta(seconds=60),
    budget: timedelta = timedelta(seconds=30),
) -> AsyncIterator[Mapping[str, str]]:
    """Read where one database stands, and keep writers out if that is wanted, without broker and agent.

    Args:
        uri: where slapd is.
        suffix: which database; empty: the only one.
        bind_dn: the account; empty: this process's user.
        password: its password.
        recipe: what keeps writers out.
        hold_limit: for the caller alone; slapd ends nothing by itself.
        budget: the time for getting quiet.

    Raises:
        AdapterError: it cannot be done; nothing is held.
        HoldLost: on leaving: somebody else has made it writable, or slapd was started again.
    """
    settings = Settings(uri=uri, suffix=suffix, bind_dn=bind_dn, password=password, recipe=recipe)
    freeze = Freeze(cycle=uuid4().hex, requester="quiesce", budget=budget, hold_limit=hold_limit)
    async with Adapter(settings).quiesce(freeze) as evidence:
        yield evidence
