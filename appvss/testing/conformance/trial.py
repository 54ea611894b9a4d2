"""Plays cases against one program, and judges each by what it expects and by what holds for every case.

What holds for every case: the app says nothing that `proto/appvss/v1/app.proto` does not allow, answers everything, and
its process goes on. After a failed case the program is started afresh, so that the next one begins from a known state.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from appvss.model.errors import AppNotAttached, UsageError
from appvss.model.instant import Instant
from appvss.sdk.clock import now
from appvss.sdk.testing import BlockingFakeBroker
from appvss.testing.conformance.case import Case, NotPlayed, Result, Status, Unmet
from appvss.testing.conformance.cases import CASES
from appvss.testing.conformance.report import Report
from appvss.testing.conformance.stage import Stage
from appvss.testing.conformance.subject import Subject

_DYING: Final = timedelta(seconds=3)
"""How long a program whose app has lost its stream may take to end, which tells more than the stream's end does."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """What there was before a case."""

    refusals: int
    turned_away: int
    incarnation: str


class Trial:
    """One program under check: a context manager, which starts it and ends it.

    Args:
        subject: the program, and what is promised of it.

    Raises (on entering):
        CommandUnusable: it cannot be started.
        AppNotAttached: its app does not come.
        UsageError: it brings several apps, and none was named.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._ends = ExitStack()
        self._stage: Stage | None = None
        self._is_spoilt = False
        """Whether a case has failed, and nothing is known of the state that it has left."""
        self._lost = ""

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            broker = starting.enter_context(BlockingFakeBroker())
            stage = Stage(self.subject, broker)
            starting.callback(stage.end)
            stage.start(again=False)
            self._stage = stage
            self._ends = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ends.close()

    @property
    def _on(self) -> Stage:
        if self._stage is None:
            raise UsageError("the trial has not been entered", "Use it as a context manager.")
        return self._stage

    @property
    def app(self) -> str:
        """The app's name, with its instance if it has one."""
        return str(self._on.app.registration.app)

    @property
    def library(self) -> str:
        """Name and version of the library that it says it uses."""
        return self._on.app.library

    def play(self, case: Case) -> Result:
        """Play one case. It raises nothing for what the app does.

        Raises:
            CommandUnusable: the program, or the user's own, cannot be started.
            UsageError: it brings several apps, and none was named.
        """
        began = now()
        if self._lost:
            return Result(case, Status.SKIPPED, self._lost, case.expected, "", now() - began)
        try:
            mark = self._prepare()
            seen = case.play(self._on)
            self._judge(case, mark)
        except NotPlayed as skipped:
            if not self._lost:
                self._tidy()
            return Result(case, Status.SKIPPED, skipped.reason, case.expected, "", now() - began)
        except Unmet as unmet:
            return self._fail(case, unmet, began)
        except (TimeoutError, ConnectionError, AppNotAttached) as error:
            return self._fail(case, Unmet(str(error)), began)
        return Result(case, Status.PASSED, seen, case.expected, "", now() - began)

    def _prepare(self) -> _Mark:
        """The state in which every case begins: a broker that admits, an app that is attached and holds nothing."""
        stage = self._on
        stage.tolerated.clear()
        stage.unbroken.clear()
        stage.tolerates_refused_calls = False
        if self._is_spoilt:
            self._start_afresh()
            self._is_spoilt = False
        elif not stage.app.attached or stage.program.exit_code is not None:
            stage.restart()
        stage.must_be_clear()
        return _Mark(len(stage.app.refusals), len(stage.broker.turned_away), stage.app.incarnation)

    def _judge(self, case: Case, mark: _Mark) -> None:
        """What holds for every case."""
        stage = self._on
        code = stage.program.exit_code
        if code is not None and not case.ends_process:
            raise Unmet(stage.program.how_it_ended(), f"{case.expected}, and the program goes on")
        stage.await_attached()
        stage.barrier()
        held = stage.app.held
        if held:
            raise Unmet(f"the app says that it still holds cycle {held}", "nothing is held at the end of the case")
        for cycle in stage.unbroken:
            if cycle in stage.app.losses:
                raise Unmet(
                    f"hold_lost for a hold that it called unbroken at its thaw: {stage.app.losses[cycle]}",
                    "what is said at the thaw holds",
                    "Say unbroken = true only if you can: a broker believes the later word, and the cycle has failed.",
                )
        for refusal in stage.app.refusals[mark.refusals :]:
            if refusal.name not in stage.tolerated:
                raise Unmet(
                    f"the app said what it may not: {refusal.name}: {refusal.sentence}",
                    "the app says nothing but what app.proto allows",
                    "Answer each question once, with the cycle that it names, and say nothing that was not asked.",
                )
        if not stage.tolerates_refused_calls:
            for call in stage.broker.turned_away[mark.turned_away :]:
                raise Unmet(
                    f"a call was ended with {call.code}: {call.sentence}",
                    "the app says nothing that breaks a limit of app.proto",
                    "The limits stand in app.proto and types.proto, beside each field.",
                )
        if not case.ends_process and stage.app.incarnation != mark.incarnation:
            raise Unmet(
                "the app came back with another incarnation: its process ended, or it does not keep its word",
                f"{case.expected}, and the process goes on",
                "Choose the incarnation once for each process, and keep it over every stream.",
            )

    def _tidy(self) -> None:
        """After a case that was given up half-way: a state from which another one can begin."""
        stage = self._on
        stage.broker.admit()
        with contextlib.suppress(Unmet, TimeoutError, ConnectionError):
            if stage.app.held:
                stage.answer(stage.app.ask_abort("the case is over", stage.app.held), "an abort")

    def _fail(self, case: Case, unmet: Unmet, began: Instant) -> Result:
        stage = self._on
        output = ""
        seen = unmet.seen
        with contextlib.suppress(Unmet):
            if not stage.app.attached:
                stage.program.wait(_DYING)  # its stream ends before it does
            output = stage.program.output
            if stage.program.exit_code is not None and not case.ends_process:
                ended = stage.program.how_it_ended()
                seen = seen if ended in seen else f"{seen}; {ended}"
        took = now() - began
        self._is_spoilt = True
        expected = unmet.expected or case.expected
        return Result(case, Status.FAILED, seen, expected, unmet.hint or case.hint, took, output)

    def _start_afresh(self) -> None:
        stage = self._on
        with contextlib.suppress(Unmet, NotPlayed):
            stage.signal_app(signal.SIGCONT)
        stage.broker.admit()
        stage.serve_again()
        try:
            stage.restart()
        except AppNotAttached as error:
            self._lost = f"after a failed case the app did not come back: {error.sentence}"
            raise NotPlayed(self._lost) from error


def check(
    command: Sequence[str] | Subject,
    cases: Iterable[Case] = CASES,
    *,
    told: Callable[[Result], None] | None = None,
) -> Report:
    """Start a program, play cases against its app, end it.

    Args:
        command: program and arguments, or a `Subject` that says more.
        cases: which ones, in this order.
        told: called after each case.

    Raises:
        CommandUnusable: it cannot be started.
        AppNotAttached: its app does not come.
        UsageError: it brings several apps, and none was named.
    """
    subject = command if isinstance(command, Subject) else Subject(tuple(command))
    results = []
    with Trial(subject) as trial:
        app, library = trial.app, trial.library
        for case in cases:
            results.append(trial.play(case))
            if told is not None:
                told(results[-1])
    return Report(app, library, tuple(results))
