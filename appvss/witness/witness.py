"""Looks at the paths of held apps, in threads of its own: no file system may stop the broker's loop.

    begin (an app has acked) -> first look          inspect (the hold is over) -> second look, compared -> sentences

Two threads look, so that a path that never answers (a dead file server) does not keep the others waiting; a third keeps
the time. A thread that does not come back is given up and replaced, a few times.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from appvss.model.app import AppId
from appvss.model.instant import Instant
from appvss.witness.fingerprint import ENTRIES_LIMIT, Bounds, Fingerprint, Uninspectable, changed_after, changes, look
from appvss.witness.stamps import MARGIN, Clock, WallClock, is_stamped_by_us

LOOK_LIMIT: Final = timedelta(seconds=5)
"""How long one look at the paths of one app may take."""
GRACE: Final = timedelta(seconds=1)
"""How much longer until the thread that looks is given up: the kernel does not let it go."""
ENTRIES_LIMIT_IN_ALL: Final = 200_000
"""Files and folders that all apps together may have watched: about 350 bytes of memory each."""
_SHARE: Final = 0.9
"""The part of its limit that an inspection takes, so that the answer is there before whoever asked gives up."""
_LOOKING_THREADS: Final = 2
_GIVEN_UP_LIMIT: Final = 8
"""Threads that are replaced. Then nobody can tell any more, and says so, until one of them comes back."""
_CYCLES_LIMIT: Final = 2
"""Cycles that are kept. There is one at a time; another one means that the first was not forgotten."""


@dataclass(eq=False, slots=True)
class _Watched:
    """One app's paths in one cycle."""

    cycle: str
    app: AppId
    paths: tuple[str, ...]
    heard: timedelta
    """What the wall clock showed when the ack was heard."""
    is_steady: bool
    """Whether a change time after that means a change after that."""
    first: Fingerprint | None = None
    accused: str = ""
    """What the first look alone shows to have changed."""
    failure: str = ""
    """Why nobody can tell; empty: nothing has failed."""
    has_looked: bool = False
    """Whether the first look has ended, well or not."""
    began: Instant | None = None
    """When the look that is being taken was begun; None: none is."""


@dataclass(eq=False, slots=True)
class _Inspection:
    """One question, until it is answered."""

    cycle: str
    limit: timedelta
    deadline: Instant
    answer: Future[Mapping[AppId, str]]
    waiting: dict[AppId, _Watched]
    """Those that have not been compared."""
    found: dict[AppId, str] = field(default_factory=dict)


class Witness:
    """Says which held apps have changed the paths that they declared.

    Writes nothing, to no file system. All calls but `close` return at once. An app may change its paths unseen between
    its ack and the first look where their times cannot be compared with the ack's (`witness/stamps.py`); that look is
    taken within moments.

    Args:
        clock: both clocks of the machine.
        entries: files and folders that one app may have watched.
        entries_in_all: those of all apps together.
        look_limit: how long one look at the paths of one app may take.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        entries: int = ENTRIES_LIMIT,
        entries_in_all: int = ENTRIES_LIMIT_IN_ALL,
        look_limit: timedelta = LOOK_LIMIT,
    ) -> None:
        self._clock = clock
        self._wall = WallClock(clock)
        self._entries = entries
        self._entries_in_all = entries_in_all
        self._look_limit = look_limit
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        """Something is to be looked at, or a thread is to end."""
        self._time = threading.Condition(lock)
        """Something is due, or may be due at another time."""
        self._lock = lock
        self._next_due: Instant | None = None
        """What the time is kept for; None: nothing is due."""
        self._cycles: dict[str, dict[AppId, _Watched]] = {}
        self._jobs: deque[_Watched] = deque()
        self._inspections: list[_Inspection] = []
        self._entries_kept = 0
        self._looking: dict[threading.Thread, _Watched | None] = {}
        """The threads that look, and what at."""
        self._given_up: dict[threading.Thread, AppId] = {}
        self._is_closed = False
        self._timekeeper = threading.Thread(target=self._keep_time, name="appvss-witness-time", daemon=True)
        for _ in range(_LOOKING_THREADS):
            self._start_looking()
        self._timekeeper.start()

    def begin(self, cycle: str, app: AppId, paths: tuple[str, ...]) -> None:
        """An app has acked: look at its paths as soon as possible, and remember. Once in a cycle; again, or without
        paths, it does nothing.
        """
        heard, is_steady = self._wall.read()
        watched = _Watched(cycle, app, paths, heard, is_steady)
        with self._lock:
            if cycle not in self._cycles:
                while len(self._cycles) >= _CYCLES_LIMIT:
                    self._forget(next(iter(self._cycles)))
            apps = self._cycles.setdefault(cycle, {})
            if self._is_closed or not paths or app in apps:
                return
            apps[app] = watched
            if app in self._given_up.values():
                watched.failure, watched.has_looked = "they have not answered since an earlier cycle", True
                return
            self._jobs.append(watched)
            self._work.notify()

    def inspect(self, cycle: str, limit: timedelta) -> Future[Mapping[AppId, str]]:
        """The hold is over, and no app has been thawed: compare.

        The answer comes within `limit`, and cannot be cancelled. It has a sentence for each app whose paths have
        changed, and for each of which nobody can tell; apps that are not in it have kept their word as far as can be
        seen. It is set in a thread of the witness.
        """
        answer: Future[Mapping[AppId, str]] = Future()
        answer.set_running_or_notify_cancel()
        with self._lock:
            waiting = dict(self._cycles.get(cycle, {}))
            within = limit * _SHARE
            asked = _Inspection(cycle, within, self._clock.now() + within, answer, waiting)
            self._inspections.append(asked)
            if self._is_closed:
                self._give_answer(asked, "the broker stops")
            # Those whose first look is still being taken, or is still due, are compared by whoever takes it.
            self._jobs.extend(watched for watched in waiting.values() if watched.has_looked)
            self._work.notify_all()
            self._time.notify_all()
        return answer

    def forget(self, cycle: str) -> None:
        """The cycle has ended. An inspection of it that is still under way is answered with what is known."""
        with self._lock:
            self._forget(cycle)

    def _forget(self, cycle: str) -> None:
        for asked in [one for one in self._inspections if one.cycle == cycle]:
            self._give_answer(asked, "the cycle has ended")
        self._entries_kept -= sum(len(watched.first or ()) for watched in self._cycles.pop(cycle, {}).values())
        self._jobs = deque(watched for watched in self._jobs if watched.cycle != cycle)

    def close(self, limit: timedelta) -> None:
        """End the threads. Blocks for `limit` at most; a thread that the kernel does not let go ends with the
        process.
        """
        with self._lock:
            self._is_closed = True
            for asked in list(self._inspections):
                self._give_answer(asked, "the broker stops")
            self._cycles.clear()
            self._jobs.clear()
            self._work.notify_all()
            self._time.notify_all()
            threads = [self._timekeeper, *self._looking]
        deadline = self._clock.now() + limit
        for thread in threads:
            thread.join(max((deadline - self._clock.now()).total_seconds(), 0.0))

    # -- the threads that look

    def _start_looking(self) -> None:
        number = len(self._looking) + len(self._given_up) + 1
        thread = threading.Thread(target=self._look_at_all, name=f"appvss-witness-{number}", daemon=True)
        self._looking[thread] = None
        thread.start()

    def _look_at_all(self) -> None:
        me = threading.current_thread()
        while (watched := self._next(me)) is not None:
            if not watched.has_looked:
                self._take_first(watched)
            self._compare(watched)

    def _next(self, me: threading.Thread) -> _Watched | None:
        """What to look at; None: this thread is to end."""
        with self._lock:
            if me in self._looking:
                self._looking[me] = None
            self._given_up.pop(me, None)
            self._work.wait_for(lambda: self._is_closed or me not in self._looking or self._jobs)
            if self._is_closed or me not in self._looking:
                return None
            watched = self._looking[me] = self._jobs.popleft()
            watched.began = self._clock.now()
            if self._next_due is None or self._end_of(watched.began) < self._next_due:
                self._time.notify_all()
            return watched

    def _end_of(self, began: Instant) -> Instant:
        """When a look is given up."""
        return began + self._look_limit + GRACE

    def _look(self, watched: _Watched, *, room: int) -> Fingerprint:
        end = self._clock.now() + self._look_limit
        bounds = Bounds(min(self._entries, room), is_over=lambda: self._clock.now() >= end, time=self._look_limit)
        try:
            return look(watched.paths, bounds)
        except Uninspectable:
            raise
        except Exception as error:  # whatever it is, it must not end the thread
            raise Uninspectable(f"{type(error).__name__}: {error}") from error

    def _take_first(self, watched: _Watched) -> None:
        try:
            first = self._look(watched, room=self._entries_in_all - self._entries_kept)
        except Uninspectable as error:
            with self._lock:
                watched.failure, watched.has_looked = watched.failure or str(error), True
            return
        accused = self._changed_since_ack(watched, first)
        with self._lock:
            watched.accused, watched.has_looked = accused, True
            self._keep(watched, first)

    def _keep(self, watched: _Watched, first: Fingerprint | None) -> None:
        """Keep a first look, unless its cycle is over."""
        if self._cycles.get(watched.cycle, {}).get(watched.app) is watched:
            self._entries_kept += len(first or ()) - len(watched.first or ())
            watched.first = first

    def _changed_since_ack(self, watched: _Watched, first: Fingerprint) -> str:
        if not watched.is_steady:
            return ""
        begin, end = watched.heard + MARGIN, self._clock.wall()
        return changed_after(first, _nanoseconds(begin), _nanoseconds(end), is_stamped_by_us)

    def _compare(self, watched: _Watched) -> None:
        """Take the second look for the inspection that waits for it, if one does."""
        with self._lock:
            watched.began = self._clock.now()
            if all(one.waiting.get(watched.app) is not watched for one in self._inspections):
                return
        try:
            sentence = self._sentence(watched)
        except Uninspectable as error:
            sentence = _nobody_can_tell(str(error))
        with self._lock:
            self._settle(watched, sentence)

    def _settle(self, watched: _Watched, sentence: str) -> None:
        """Tell those who wait for this app. The one who keeps the time gives the answers."""
        for asked in [one for one in self._inspections if one.waiting.get(watched.app) is watched]:
            del asked.waiting[watched.app]
            if sentence:
                asked.found[watched.app] = sentence
            if not asked.waiting:
                self._time.notify_all()

    def _sentence(self, watched: _Watched) -> str:
        if watched.first is None:
            raise Uninspectable(watched.failure)
        changed = watched.accused or changes(watched.first, self._look(watched, room=self._entries))
        return f"its files changed while it was held: {changed}" if changed else ""

    # -- the thread that keeps the time

    def _keep_time(self) -> None:
        with self._lock:
            while not self._is_closed:
                now = self._clock.now()
                self._give_up_on_stuck(now)
                for asked in list(self._inspections):
                    if not asked.waiting or now >= asked.deadline:
                        self._give_answer(asked, f"that takes longer than {asked.limit.total_seconds():g} s")
                self._next_due = due = self._due()
                self._time.wait(None if due is None else max((due - now).total_seconds(), 0.0))

    def _due(self) -> Instant | None:
        begun = [watched.began for watched in self._looking.values() if watched is not None and watched.began]
        due = [asked.deadline for asked in self._inspections] + [self._end_of(began) for began in begun]
        return min(due, default=None)

    def _give_up_on_stuck(self, now: Instant) -> None:
        for thread, watched in list(self._looking.items()):
            if watched is None or watched.began is None or now < self._end_of(watched.began):
                continue
            if len(self._given_up) >= _GIVEN_UP_LIMIT:
                watched.began = now  # it keeps its place; look again later
                continue
            del self._looking[thread]
            self._given_up[thread] = watched.app
            watched.failure = watched.failure or f"they have not answered for {self._look_limit.total_seconds():g} s"
            self._keep(watched, None)
            watched.has_looked = True
            self._settle(watched, _nobody_can_tell(watched.failure))
            self._start_looking()

    def _give_answer(self, asked: _Inspection, why: str) -> None:
        """Answer an inspection: nobody can tell of those that have not been compared."""
        self._inspections.remove(asked)
        for app, watched in asked.waiting.items():
            asked.found[app] = _nobody_can_tell(watched.failure or why)
        asked.answer.set_result(asked.found)


def _nobody_can_tell(why: str) -> str:
    return f"its paths could not be inspected: {why}"


def _nanoseconds(length: timedelta) -> int:
    return length // timedelta(microseconds=1) * 1000
