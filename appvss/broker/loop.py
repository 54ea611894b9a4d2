"""The one place where clock, tasks and effects meet.

    something happens -> feed(input) -> Machine.handle -> effects -> carried out here -> each ends as exactly one input

Everything runs on one event loop, so that no two inputs are ever handled at once. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from appvss.broker import filesystems
from appvss.broker.encoder import Ask, Encoder
from appvss.broker.gates import Gate
from appvss.broker.journal import Journal, JournalUnwritable, may_be_frozen
from appvss.broker.recent import Recent
from appvss.cycle import effects, inputs
from appvss.cycle.machine import Machine
from appvss.delivery.app_service import AppService
from appvss.freezer.base import Freezer
from appvss.model.instant import Instant
from appvss.model.journal import JournalEntry
from appvss.model.past import PastCycle
from appvss.sources.base import Clock, Source
from appvss.witness.witness import Witness

_log = logging.getLogger("appvss.broker")


class BrokerLoop:
    """Feeds the machine and carries out its effects. What apps and sources say comes through `broker/news.py`.

    Args:
        machine: the core.
        clock: the monotonic clock that the machine is told.
        freezer: who freezes file systems.
        journal: who writes the running cycle to disk.
        witness: who looks at the paths of apps in their hold.
        recent: where announcements go.
        gate: what must write nothing from the first file-system freeze to the last file-system thaw.
        ended: told of every cycle that has ended.

    Before anything is fed, `connect` names the apps and the sources.
    """

    def __init__(
        self,
        machine: Machine,
        clock: Clock,
        freezer: Freezer,
        journal: Journal,
        witness: Witness,
        recent: Recent,
        gate: Gate,
        ended: Callable[[PastCycle], None],
    ) -> None:
        self.machine = machine
        self.is_ending = False
        """Whether the broker stops: no new request begins anything."""
        self._clock = clock
        self._freezer = freezer
        self._journal = journal
        self._witness = witness
        self._recent = recent
        self._gate = gate
        self._ended = ended
        self._apps: AppService | None = None
        self._sources: Mapping[str, Source] = {}
        self._inputs: deque[inputs.Input] = deque()
        self._is_feeding = False
        self._timer: asyncio.TimerHandle | None = None
        self._due: Instant | None = None
        """What the timer is set to."""
        self._gated_for = ""
        """The cycle for which the gate is closed; empty: it is open."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._encoder = Encoder()
        self._rest: asyncio.Event = asyncio.Event()
        self._rest.set()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the exception if the core or an effect ever raises: then the broker must call `let_go` and end."""
        self._carry: dict[type[effects.Effect], Callable[[Any], None]] = {
            effects.AskPrepare: self._ask,
            effects.AskFreeze: self._ask,
            effects.TellFilesystemFreeze: self._ask,
            effects.AskThaw: self._ask,
            effects.AskAbort: self._ask,
            effects.PrepareFilesystems: self._prepare_filesystems,
            effects.FreezeFilesystems: self._freeze_filesystems,
            effects.ThawFilesystems: self._thaw_filesystems,
            effects.WriteJournal: self._write_journal,
            effects.WatchPaths: self._watch_paths,
            effects.InspectPaths: self._inspect_paths,
            effects.AnswerSource: self.answer,
            effects.RefuseInput: self._refuse,
            effects.Announce: self._announce,
            effects.EndCycle: self._end,
        }

    def connect(self, apps: AppService, sources: Mapping[str, Source]) -> None:
        """Name those to whom effects go."""
        self._apps, self._sources = apps, sources

    def feed(self, input: inputs.Input) -> None:
        """Tell the machine what has happened and carry out what it wants. On the event loop only. After `failure` it
        does nothing: nobody knows what the machine would want.
        """
        if self.failure.done():
            return
        self._inputs.append(input)
        if self._is_feeding:
            return  # an effect has caused this input: it waits for the others of its step
        self._is_feeding = True
        try:
            while self._inputs:
                for effect in self.machine.handle(self._inputs.popleft(), self._clock.now()):
                    self._carry[type(effect)](effect)
            self._rearm()
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the broker, loudly
            self._fail(error)
        finally:
            self._is_feeding = False

    def _fail(self, error: Exception) -> None:
        if not self.failure.done():
            _log.critical("the broker's core has failed: it ends, and lets every app go", exc_info=error)
            self.failure.set_exception(error)
        if self._timer is not None:
            self._timer.cancel()

    def _rearm(self) -> None:
        """Let the timer ring when the machine wants it; most inputs change nothing about that."""
        due = self.machine.next_deadline()
        if due == self._due and due is not None:
            return
        self._due = due
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is None:
            self._rest.set()
            gc.enable()
            return
        self._rest.clear()
        # A pass over the objects of a thousand apps would lengthen the freeze by a tenth (docs/performance.md). A
        # cycle's length is bounded, and so is what it leaves for the collector.
        gc.disable()
        wait = max((due - self._clock.now()).total_seconds(), 0.0)
        self._timer = asyncio.get_running_loop().call_later(wait, self._ring)

    def _ring(self) -> None:
        self._due = None
        self.feed(inputs.DeadlinePassed())

    async def until_rest(self) -> None:
        """Wait until no cycle is under way. The caller sets the bound."""
        await self._rest.wait()

    def end(self, reason: str) -> None:
        """The broker stops: what is held is let go, and no new request begins anything."""
        self.is_ending = True
        self.feed(inputs.ThawForced(reason))

    def adopt(self, entry: JournalEntry) -> None:
        """Take up the open cycle of a former broker, before anything else is fed. In its hold file systems may be
        frozen; but its source must open its device once more, to hear of the thaw.
        """
        if may_be_frozen(entry):
            self._close_gate(entry.cycle)
            for source in self._sources.values():
                source.set_gate(is_open=True)
        self.feed(inputs.CycleAdopted(entry))

    async def let_go(self, reason: str) -> None:
        """After `failure`: let everything go without the machine. The caller sets the bound."""
        cycle = self.machine.cycle
        try:
            await self._freezer.thaw(cycle)
            self._gate.set_gate(is_open=True)
        finally:
            if self._apps is not None:
                self._apps.let_go(cycle, reason)

    async def close(self) -> None:
        """Stop the timer and end the tasks of effects."""
        gc.enable()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- effects

    def _ask(self, effect: Ask) -> None:
        if self._apps is None or not self._apps.send(effect.app, self._encoder.encode(effect)):
            _log.debug("%s is gone: %s not sent", effect.app, type(effect).__name__)

    def _prepare_filesystems(self, effect: effects.PrepareFilesystems) -> None:
        registered = self._apps.registry.get if self._apps is not None else lambda _app: None
        declared = {app: stream.paths for app in effect.apps if (stream := registered(app)) is not None}
        self._start(filesystems.prepare(self._freezer, effect, declared), f"prepare file systems for {effect.cycle}")

    def _freeze_filesystems(self, effect: effects.FreezeFilesystems) -> None:
        self._close_gate(effect.cycle)
        self._start(filesystems.freeze(self._freezer, self._gate, effect), f"freeze file systems for {effect.cycle}")

    def _close_gate(self, cycle: str) -> None:
        """It stays closed until our own thaw has ended, not only as long as the machine waits for that."""
        self._gated_for = cycle
        self._gate.set_gate(is_open=False)

    def _thaw_filesystems(self, effect: effects.ThawFilesystems) -> None:
        async def thaw() -> inputs.Input:
            thawed = await self._freezer.thaw(effect.cycle)
            if self._gated_for == effect.cycle:
                self._gated_for = ""
                self._gate.set_gate(is_open=True)
            return inputs.FilesystemsThawed(effect.cycle, thawed.unbroken, thawed.reason, thawed.lost)

        self._start(thaw(), f"thaw file systems for {effect.cycle}")

    def _start(self, work: Coroutine[None, None, inputs.Input], name: str) -> None:
        async def carry_out() -> None:
            try:
                self.feed(await work)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends the broker, loudly
                self._fail(error)

        task = asyncio.get_running_loop().create_task(carry_out(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _write_journal(self, effect: effects.WriteJournal) -> None:
        entry = effect.entry

        async def write() -> inputs.Input:
            try:
                await self._journal.write(entry)
            except JournalUnwritable as error:
                return inputs.JournalFailed(entry.cycle, entry.stage, str(error))
            return inputs.JournalWritten(entry.cycle, entry.stage)

        self._start(write(), f"journal {entry.stage} of {entry.cycle}")

    def _watch_paths(self, effect: effects.WatchPaths) -> None:
        stream = self._apps.registry.get(effect.app) if self._apps is not None else None
        if stream is not None:
            self._witness.begin(effect.cycle, effect.app, stream.paths)

    def _inspect_paths(self, effect: effects.InspectPaths) -> None:
        async def inspect() -> inputs.Input:
            changed = await asyncio.wrap_future(self._witness.inspect(effect.cycle, effect.limit))
            return inputs.PathsInspected(effect.cycle, changed)

        self._start(inspect(), f"inspect the paths of {effect.cycle}")

    def answer(self, effect: effects.AnswerSource) -> None:
        """Have a source give an answer."""
        source = self._sources.get(effect.answer.request.source)
        if source is not None:
            source.answer(effect.answer)

    def _refuse(self, effect: effects.RefuseInput) -> None:
        _log.info("refused: %s", effect.sentence)
        if effect.app is not None and self._apps is not None:
            self._apps.refuse(effect.app, effect.name, effect.sentence)

    def _announce(self, effect: effects.Announce) -> None:
        self._recent.announce(effect.event)

    def _end(self, effect: effects.EndCycle) -> None:
        record = effect.record
        self._witness.forget(record.cycle)
        past = self._recent.end(record, self._journal.certificate_of(record.cycle), self._journal.boot)
        reasons = "; ".join(record.verdict.reasons)
        _log.info("cycle %s: %s%s", record.cycle, record.verdict.level, f" ({reasons})" if reasons else "")
        for source in self._sources.values():
            source.ended(record)
        self._ended(past)

    # -- what an administrator says

    async def force_thaw(self, reason: str) -> str:
        """End the running cycle and wait until nothing is held; its id, or empty. The caller sets the bound."""
        cycle = self.machine.cycle
        self.feed(inputs.ThawForced(reason))
        await self.until_rest()
        return cycle
