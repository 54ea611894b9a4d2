"""The hold of a Redis or Valkey server: marker, pause, drain or dump; and the proof, afterwards, that nobody wrote."""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar, Final

from appvss.adapters import base
from appvss.adapters.errors import AdapterError, HoldRefused, PrivilegeMissing, ServerUnfit
from appvss.adapters.redis import preflight
from appvss.adapters.redis.information import Information, Recipe, Stand
from appvss.adapters.redis.session import Look, Session, Settings, without_secret
from appvss.adapters.settings import NO_SECRET, Secret
from appvss.adapters.waiting import to_the_end
from appvss.model.errors import HoldLost
from appvss.model.instant import Instant
from appvss.model.names import printable
from appvss.sdk.clock import now
from appvss.sdk.freeze import Freeze, Prepare

ANSWER_LIMIT: Final = timedelta(seconds=5)
"""How long the server may take for each answer after the thaw."""
_RESERVE: Final = timedelta(milliseconds=300)
"""What is kept of the budget, so that a refusal has let the writers go on before the budget is over."""
_FIRST_WAIT, _LONGEST_WAIT = 0.002, 0.05
_MOST_PAUSE: Final = timedelta(hours=24)
_USE_AOF: Final = (
    "Set `appendonly yes`: with an append-only file no dump is needed, and writers wait some milliseconds."
)
_LOOK_AT_AOF: Final = "Look at its disk; INFO persistence shows what of the append-only file is on its way."

_KINDS: Final[Mapping[str, type[AdapterError]]] = {
    "missing_privilege": PrivilegeMissing,
    "loading": HoldRefused,
    "writes_paused": HoldRefused,
}
"""Which error a finding is, where it is no matter of what the server is set to."""

_logger = logging.getLogger("appvss.adapters.redis")


@dataclass(slots=True)
class Held:
    """One hold."""

    session: Session
    client: int
    """The connection's number at the server."""
    recipe: Recipe
    asked_at: Instant
    """When the pause was asked for: it is in force for `pause` from then on, at least."""
    pause: timedelta
    then: Information
    """What the server said of itself when it was quiet."""
    evidence: Mapping[str, str]
    is_thawed: bool = False
    """Whether the thaw has come: from then on no file system is frozen."""


class Adapter(base.Adapter[Held]):
    """One Redis or Valkey server that takes part in snapshots."""

    engine: ClassVar[str] = "redis"
    properties: ClassVar[base.Properties] = base.Properties(
        auto_release=base.AutoRelease.TIMER,
        holds_writes=True,
        blocks_reads_while_frozen=False,
        privileges=(
            "+client|pause",
            "+client|unpause",
            "+client|id",
            "+bgsave",
            "+info",
            "+config|get",
            "+set on the marker key",
            "+waitaof (7.2 and newer)",
        ),
        settings_read=("appendonly", "appendfsync", "save", "stop-writes-on-bgsave-error"),
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = without_secret(settings)

    async def preflight(self) -> base.Preflight:
        """Look at the server: see `preflight.look_at`."""
        return await preflight.look_at(self.settings)

    async def prepare(self, prepare: Prepare) -> None:
        """Refuse early what would be refused anyway, and wait for a save or rewrite that is running.

        With dumps, and where the server has never made one, it is asked for one: its length says whether the dump of
        the hold fits into the budget. It makes that dump no shorter: a dump is always of everything.

        Raises:
            AdapterError: a freeze would be refused.
        """
        session = await Session.open(self.settings)
        has_looked = False
        try:
            async with asyncio.timeout(_most(prepare.budget_left() - _RESERVE)):
                look = await self._fit_look(session)
                if missing := await preflight.rights_missing(session, self.settings, look):
                    _raise_first(missing)
                never_dumped = look.information.last_dump is None
                if preflight.recipe_of(look) is Recipe.RDB and never_dumped and not look.information.child_at_work:
                    await session.call("BGSAVE", "SCHEDULE")
                has_looked = True
                await _until(session, lambda told: not told.child_at_work)
        except TimeoutError:
            if not has_looked:
                raise preflight.silent(session.place) from None
            # not a reason to refuse: the freeze has a budget of its own for what is left of it
        finally:
            await session.close()

    async def hold(self, freeze: Freeze) -> Held:
        """Marker, pause, and what is in memory to disk.

        Raises:
            AdapterError: it refuses; writers go on already.
        """
        session = await Session.open(self.settings, max(_RESERVE, freeze.budget_left()))
        is_paused, recipe = False, Recipe.RDB
        try:
            async with asyncio.timeout(_most(freeze.budget_left() - _RESERVE)):
                look = await self._fit_look(session)
                recipe = preflight.recipe_of(look) or Recipe.RDB
                client = await session.call("CLIENT", "ID")
                await self._settle(session, look, recipe, freeze)
                await self._leave_marker(session, look, freeze)
                pause = min(freeze.hold_limit + freeze.budget_left() + self.settings.margin, _MOST_PAUSE)
                asked_at, is_paused = now(), True
                await session.call("CLIENT", "PAUSE", math.ceil(pause / timedelta(milliseconds=1)), "WRITE")
                then = await (self._drain(session, look) if recipe is Recipe.AOF else self._dump(session))
            return Held(session, client, recipe, asked_at, pause, then, self._evidence(look, then, recipe, freeze))
        except BaseException as error:
            # To the end: its own limit and the caller's may be over right after each other, and a second cancellation
            # in here would leave the pause in force.
            await to_the_end(self._let_go(session, is_paused=is_paused))
            if isinstance(error, TimeoutError):
                raise self._late(is_paused, recipe, session) from None
            raise

    def evidence(self, held: Held) -> Mapping[str, str]:
        """Where the server stood, and the marker; for `appvss.verify.redis`."""
        return held.evidence

    async def confirm(self, held: Held) -> None:
        """Ask the server whether anything was written since, before the pause is lifted.

        Raises:
            HoldLost: the pause had run out by our clock or by the server's, the connection or the server is another,
                something was written, or it has become another server's replica.
        """
        held.is_thawed = True
        try:
            async with asyncio.timeout(ANSWER_LIMIT.total_seconds()):
                client = await held.session.call("CLIENT", "ID")
                told = await held.session.information()
        except AdapterError as error:
            raise HoldLost(f"nobody can tell whether writes were paused all the time: {error.sentence}") from None
        except TimeoutError:
            raise HoldLost(f"nobody can tell whether writes were paused: no answer from {held.session.place}") from None
        place, answered_at = held.session.place, now()
        if client != held.client:
            raise HoldLost(f"{place}: this is not the connection that paused the writes")
        if told.primary and told.primary != held.then.primary:  # counts nothing as a write, and replaces every file
            raise HoldLost(f"{place} follows {told.primary} since the hold began, and may have taken its data over")
        has_pings = any(each.has_replicas or each.is_replica for each in (held.then, told))
        if moved := told.stand.moved(held.then.stand, held.recipe, has_pings=has_pings):
            raise HoldLost(f"{place} was written to in the hold: {moved}")
        if answered_at - held.asked_at >= held.pause:
            raise HoldLost(f"the pause of {place} was over after {held.pause}, before the thaw")
        if told.clock is not None and held.then.clock is not None and told.clock - held.then.clock >= held.pause:
            raise HoldLost(f"the pause of {place} was over by the server's own clock, which was set forward")

    async def release(self, held: Held, freeze: Freeze) -> None:
        """Let the writers go on.

        If the hold ends early while file systems may be frozen, nobody is asked, and the pause is left to its timer:
        writers that went on would write to the frozen file system, with which the server's one thread would stand
        still, readers included (facts/database-quiesce.md section 6.1). Under the pause they are answered.
        """
        if freeze.filesystem_freeze.is_set() and not held.is_thawed:
            held.session.drop()
            return
        if now() - held.asked_at < held.pause:
            await self._unpause(held.session, ended=held.evidence["marker"])
        await held.session.close()

    async def _fit_look(self, session: Session) -> Look:
        """A look at a server that can be held.

        Raises:
            ServerUnfit: it cannot.
        """
        look = await Look.take(session)
        _raise_first(preflight.obstacles(look, session.place))
        return look

    async def _settle(self, session: Session, look: Look, recipe: Recipe, freeze: Freeze) -> None:
        """Before the pause: let a child that is at work come to its end, and refuse a dump that cannot be in time."""
        takes, left = look.information.dump_takes_at_least, freeze.budget_left()
        if recipe is Recipe.RDB and takes > left:
            raise HoldRefused(
                f"a dump of {session.place} takes more than {takes.total_seconds():.0f} s, and there are "
                f"{left.total_seconds():.1f} s",
                _USE_AOF,
            )
        await _until(session, lambda told: not told.child_at_work)

    async def _leave_marker(self, session: Session, look: Look, freeze: Freeze) -> None:
        """A key that the copy of this cycle has. Without an expiry: a key that has expired is not loaded. A replica
        takes none: its pause holds back what the primary sends, as it does writers.
        """
        if look.information.is_replica:
            return
        await session.call("SET", self.settings.marker_key, freeze.cycle)
        if not preflight.knows_waitaof(look):
            return
        try:  # it covers this connection's writes alone, so it must be the one of the marker
            limit = math.ceil(max(freeze.budget_left() / 2, _RESERVE) / timedelta(milliseconds=1))
            here, _ = await session.call("WAITAOF", 1, 0, limit)
        except PrivilegeMissing:
            return  # the file-system freeze brings to disk what the server has written
        if not here:
            raise HoldRefused(f"{session.place} did not bring the marker to its disk in time", "Look at its disk.")

    async def _drain(self, session: Session, look: Look) -> Information:
        """Wait until the append-only file has everything. A server that still has to write, or to rewrite its file,
        would stand still with a frozen file system, readers included: 1 of 27 did without this, 0 of 25 with it.
        """
        percentage, least = look.setting("auto-aof-rewrite-percentage"), look.setting("auto-aof-rewrite-min-size")
        return await _until(session, lambda told: not told.undrained and not told.rewrites_soon(percentage, least))

    async def _dump(self, session: Session) -> Information:
        """Dump under the pause, and wait until it has everything.

        Raises:
            HoldRefused: it failed.
        """
        await session.call("BGSAVE")
        told = await _until(session, lambda told: not told.is_set("rdb_bgsave_in_progress"))
        if told.text("rdb_last_bgsave_status") != "ok":
            raise HoldRefused(f"the dump of {session.place} failed", "Read its log: a full disk, or no memory to fork.")
        if changes := told.number("rdb_changes_since_last_save"):
            raise HoldRefused(f"{changes} changes came to {session.place} in spite of the pause", "Who lifted it?")
        return told

    async def _let_go(self, session: Session, *, is_paused: bool) -> None:
        if is_paused:
            await self._unpause(session)
        await session.close()

    async def _unpause(self, session: Session, *, ended: str = "") -> None:
        """Lift the pause, over another connection if need be. Bounded; what fails is left to the server's timer.

        Args:
            session: the connection of the hold.
            ended: the marker of a hold that had come about. It is written anew, and before any waiting write, so that
                no file of a later moment has the cycle's own.
        """
        if await self._unpaused(session, ended):
            return
        try:
            other = await Session.open(self.settings, ANSWER_LIMIT)
        except (AdapterError, TimeoutError) as error:
            _logger.warning("%s: the pause of writes is left to end by itself: %s", session.place, error)
            return
        if not await self._unpaused(other, ended):
            _logger.warning("%s: the pause of writes could not be lifted, and is left to end by itself", session.place)
        await other.close()

    async def _unpaused(self, session: Session, ended: str) -> bool:
        commands = [("CLIENT", "UNPAUSE")] + [("SET", self.settings.marker_key, f"{ended} is over")] * bool(ended)
        try:
            async with asyncio.timeout(ANSWER_LIMIT.total_seconds()):
                answers = await session.call_together(*commands)
        except (AdapterError, TimeoutError):
            return False
        return not isinstance(answers[0], AdapterError)

    @staticmethod
    def _late(is_paused: bool, recipe: Recipe, session: Session) -> AdapterError:
        if is_paused:
            hint = _USE_AOF if recipe is Recipe.RDB else _LOOK_AT_AOF
            return HoldRefused(f"{session.place} did not bring everything to its disk in time", hint)
        return HoldRefused(
            f"{session.place} did not come to rest in time: a save or a rewrite runs, or somebody else has paused it",
            "Try again when it is over; INFO persistence shows it.",
        )

    def _evidence(self, look: Look, told: Information, recipe: Recipe, freeze: Freeze) -> Mapping[str, str]:
        stand: Stand = told.stand
        evidence = {
            "engine": self.engine,
            "version": told.version,
            "recipe": str(recipe),
            "position": str(stand.offset),
            "role": told.text("role"),
            "marker": "" if told.is_replica else freeze.cycle,
            "marker_key": self.settings.marker_key,
            "database": _database(self.settings.url),
            "data_directory": preflight.data_directory(look, self.settings),
            "run_id": stand.run_id,
            "rdb_last_save_time": str(stand.saved_at),
        }
        if recipe is Recipe.AOF:
            evidence |= {
                "aof_current_size": str(stand.aof_size),
                "appenddirname": look.setting("appenddirname"),
                "log_directory": preflight.log_directory(look, self.settings),
                "appendfilename": look.setting("appendfilename"),
            }
        else:
            evidence["dbfilename"] = look.setting("dbfilename")
        return {name: printable(value, 256) for name, value in evidence.items()}


@asynccontextmanager
async def quiesce(
    url: str,
    *,
    username: str = "",
    password: str = "",
    hold_limit: timedelta = timedelta(seconds=60),
    budget: timedelta = timedelta(seconds=30),
) -> AsyncIterator[Mapping[str, str]]:
    """Hold a server's writes for as long as the block runs, without any broker.

    Args:
        url: as in `Settings.url`.
        username: the ACL user; empty: the default user, or the one in the URL.
        password: its password; empty: none, or the one in the URL.
        hold_limit: how long the block may run; the server lets the writers go on by itself a little later.
        budget: how long getting quiet may take.

    Yields:
        The evidence.

    Raises:
        AdapterError: it refuses; nothing is held.
        HoldLost: at the end: something was written, or nobody can tell.
    """
    secret = Secret(lambda: password, "an argument") if password else NO_SECRET
    settings = replace(Settings(), url=url, username=username, password=secret)
    freeze = Freeze(f"by-hand-{uuid.uuid4().hex[:12]}", "a program", budget, hold_limit)
    async with Adapter(settings).quiesce(freeze) as evidence:
        yield evidence


def _raise_first(findings: list[base.Finding]) -> None:
    for finding in findings:
        if finding.severity is base.Severity.PROBLEM:
            raise _KINDS.get(finding.name, ServerUnfit)(finding.sentence, finding.hint)


async def _until(session: Session, is_so: Callable[[Information], bool]) -> Information:
    """What the server says of itself as soon as it is so. The caller bounds it."""
    wait = _FIRST_WAIT
    while not is_so(told := await session.information()):
        await asyncio.sleep(wait)  # the server has no event for it
        wait = min(wait * 1.5, _LONGEST_WAIT)
    return told


def _most(left: timedelta) -> float:
    return max(left, timedelta(milliseconds=1)).total_seconds()


def _database(url: str) -> str:
    from redis.asyncio.connection import parse_url

    return str(parse_url(url).get("db", 0))
