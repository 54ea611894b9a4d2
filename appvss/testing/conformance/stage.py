"""What a case plays on: the broker of the kit, the program and its app, and the few steps that most cases share."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn, TypeVar

from appvss.model.app import AppId, HoldClaim
from appvss.model.duration import format_duration
from appvss.model.errors import AppNotAttached, UsageError
from appvss.sdk.clock import now
from appvss.sdk.testing import BlockingFakeApp, BlockingFakeBroker, FreezeResult, PrepareResult, ThawResult
from appvss.testing.conformance.case import NotPlayed, Unmet
from appvss.testing.conformance.probe import WriteProbe
from appvss.testing.conformance.program import AppProcess, Program
from appvss.testing.conformance.subject import Subject

T = TypeVar("T")

REQUESTER: Final = "appvss check-app"
RUNTIME_DIRECTORY: Final = "APPVSS_RUNTIME_DIRECTORY"
"""By which an app finds its broker (docs/sdk.md)."""
LONG_HOLD: Final = timedelta(seconds=60)
"""The hold limit of the cases in which it must not pass."""
RACE: Final = timedelta(milliseconds=100)
"""An ack that comes so little after its budget was under way when the budget ended."""
ON_TIME: Final = 0.9
"""Of a hold limit: after so much of it, it may be over by the app's clock, which began before its ack came here."""
_LOOK: Final = timedelta(milliseconds=20)
_SLICE: Final = timedelta(milliseconds=100)
TRIES: Final = 3
"""How often something must be seen that a slow machine may bring about once."""
_RETRY_WITHIN: Final = timedelta(seconds=5)
_OTHERS_WITHIN: Final = timedelta(milliseconds=300)


class Stage:
    """One program with its app, and the broker that it finds.

    Args:
        subject: whom the kit checks.
        broker: the kit's broker, running.
    """

    def __init__(self, subject: Subject, broker: BlockingFakeBroker) -> None:
        self.subject = subject
        self.broker = broker
        self.probe = WriteProbe(subject.writable) if subject.writable else None
        self.time_to_freeze = timedelta(0)
        """Of the last freeze that was acked."""
        self.acked_at = now()
        """When the last ack was heard: by the thread that hears it, which may be well before it is judged."""
        self._limit = LONG_HOLD
        self.tolerated: set[str] = set()
        """Names of refusals that the running case brings about itself."""
        self.tolerates_refused_calls = False
        self.unbroken: list[str] = []
        """The cycles whose hold the app has called unbroken in the running case."""
        self._name = subject.app
        self._program: Program | None = None
        self._app: BlockingFakeApp | None = None
        self._process: AppProcess | None = None

    # The program and its app.

    @property
    def app(self) -> BlockingFakeApp:
        """The app."""
        if self._app is None:
            raise Unmet("the app is not attached")
        return self._app

    @property
    def program(self) -> Program:
        """The program that brings the app."""
        if self._program is None:
            raise Unmet("the program has not been started")
        return self._program

    @property
    def process(self) -> AppProcess | None:
        """The app's process, if the kernel names one."""
        return self._process

    @property
    def hold_limit(self) -> timedelta:
        """The hold limit of the cases in which it passes."""
        return min(self.subject.hold_limit, self.app.registration.hold_limit)

    def start(self, *, again: bool = True) -> timedelta:
        """Start the program and wait for its app. How long that took.

        Args:
            again: whether it was started before.

        Raises:
            CommandUnusable: it cannot be started.
            AppNotAttached: its app does not come.
            UsageError: it brings several apps, and none was named.
        """
        began = now()
        command = (self.subject.restart_with if again else ()) or self.subject.command
        given = os.environ if self.subject.environment is None else self.subject.environment
        environment = {**given, RUNTIME_DIRECTORY: str(self.broker.runtime_directory)}
        turned_away = len(self.broker.turned_away)
        self._program = Program(command, environment)
        self._program.start()
        self._await_app(turned_away)
        return now() - began

    def _await_app(self, turned_away: int) -> None:
        until = now() + self.subject.attach_within
        while True:
            try:
                app = self._named(_SLICE)
            except TimeoutError as error:
                ended = self.program.exit_code is not None
                if not ended and now() < until:
                    continue
                raise self._not_attached(ended, turned_away) from error
            self._name = self._name or str(app.registration.app)
            self._meet(app)
            return

    def _named(self, within: timedelta) -> BlockingFakeApp:
        if self._name:
            name, _, instance = self._name.removesuffix("]").partition("[")
            return self.broker.app(name, instance, within=within)
        app = self.broker.first_app(within=within)
        until = now() + _OTHERS_WITHIN
        while now() < until and len(self.broker.attached) == 1:
            time.sleep(0.02)
        self.must_be_clear()
        return app

    def must_be_clear(self) -> None:
        """See that it is clear which app is meant, also when another one has come late.

        Raises:
            UsageError: there are several, and none was named.
        """
        if not self.subject.app and len(self.broker.attached) > 1:
            names = ", ".join(map(str, self.broker.attached))
            raise UsageError(f"the command brings several apps: {names}", "Name one of them with --app.")

    def _not_attached(self, ended: bool, turned_away: int) -> AppNotAttached:
        wanted = f"the app {self._name}" if self._name else "an app"
        within = format_duration(self.subject.attach_within)
        what = self.program.how_it_ended() if ended else f"the program was started and brought no app within {within}"
        sentence = f"{what}, and {wanted} did not attach" if ended or self._name else what
        calls = self.broker.turned_away[turned_away:]
        if calls:
            sentence += f"; its last call was refused with {calls[-1].code}: {calls[-1].sentence}"
        if self.broker.attached:
            sentence += f"; attached are {', '.join(map(str, self.broker.attached))}"
        output = self.program.output
        if output:
            sentence += f"; it wrote last: {output.splitlines()[-1]}"
        return AppNotAttached(
            sentence,
            "Let the program find the broker by APPVSS_RUNTIME_DIRECTORY, name its app with --app if it brings "
            "several, and give it more time with --attach-within.",
        )

    def _meet(self, app: BlockingFakeApp) -> None:
        self._app = app
        if self._process is not None:
            self._process.close()
            self._process = None
        if app.peer is not None and app.peer.pid > 0:
            with contextlib.suppress(NotPlayed):
                self._process = AppProcess(app.peer.pid)

    def come_back(self, since: int) -> timedelta:
        """After the end of the app's process: wait until it is there again, by whoever starts it; start the program
        again if it has ended. How long that took.

        Args:
            since: how often the app had attached before.

        Raises:
            AppNotAttached: it does not come back.
        """
        began = now()
        until = began + self.subject.attach_within
        while self.program.exit_code is None and now() < until:
            if self.app.attached and self.app.attachments > since:
                self._meet(self.broker.app(*self._id(), within=self.subject.attach_within))
                return now() - began
            time.sleep(0.02)
        self.end()
        self.start()
        return now() - began

    def _id(self) -> tuple[str, str]:
        app: AppId = self.app.registration.app
        return app.name, app.instance

    def restart(self) -> timedelta:
        """End the program with all that belongs to it, and start it afresh. How long the start took."""
        self.end()
        return self.start()

    def end(self) -> None:
        """End the program, with all that belongs to it."""
        if self._program is not None:
            self._program.kill()
        if self._process is not None:
            with contextlib.suppress(NotPlayed):
                self._process.send(signal.SIGKILL)
            self._process.close()
            self._process = None
        if self._app is not None:
            with contextlib.suppress(TimeoutError):
                self._app.gone(within=self.subject.end_within)
        self._program = None

    def signal_app(self, number: signal.Signals) -> None:
        """Send a signal to the app's process, or to the whole program where the kernel does not name one."""
        if self._process is not None:
            self._process.send(number)
        else:
            self.program.send(number)

    def serve_again(self) -> None:
        """Start the broker if a case that failed has left it stopped."""
        with contextlib.suppress(UsageError):
            self.broker.start()

    # The steps.

    def cycle(self) -> str:
        """A new id, of the form that the broker's have."""
        return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    def freeze(self, cycle: str = "", *, hold_limit: timedelta = LONG_HOLD) -> tuple[str, FreezeResult]:
        """Have the app hold; its cycle and its ack. A veto that says that trying again may help is tried again."""
        until = now() + _RETRY_WITHIN
        while True:
            named = cycle or self.cycle()
            asked_at, limit = now(), min(hold_limit, self._longest())
            asked = self.app.ask_freeze(named, requester=REQUESTER, budget=self._enough(), hold_limit=limit)
            result = self.answer(asked, "the freeze", self._enough())
            if result.frozen:
                self.time_to_freeze = result.took
                self.acked_at, self._limit = asked_at + result.took, limit
                return named, result
            if not result.retryable or now() > until:
                raise Unmet(
                    f"a veto: {result.reason}",
                    f"frozen, within {format_duration(self._enough())}",
                    "Bring the app into a state in which it can be frozen, and check it again.",
                )
            time.sleep(0.1)

    def _enough(self) -> timedelta:
        return max(self.subject.budget, self.app.registration.freeze_timeout or timedelta(0))

    def _longest(self) -> timedelta:
        return self.app.registration.hold_limit

    def thaw(self, cycle: str, *, unbroken: bool) -> ThawResult:
        """Thaw the app, and have it say of its hold what is true."""
        result = self.answer(self.app.ask_thaw(cycle), "the thaw")
        if result.unbroken is unbroken:
            self.unbroken += [cycle] if unbroken else []
            return result
        if unbroken:
            self.skip_past_limit()
            raise Unmet(f"thawed, unbroken = false: {result.reason or 'no reason'}", "thawed, unbroken = true")
        raise Unmet("thawed, unbroken = true", "thawed, unbroken = false")

    def skip_past_limit(self) -> None:
        """End the case if the limit of the hold has passed in it: an app that has gone on is right.

        It happens to an app that bears only short holds, on a machine that is slow.
        """
        held = now() - self.acked_at
        if held > self._limit * ON_TIME:
            self.skip(
                f"its hold limit of {format_duration(self._limit)} was over, {format_duration(held)} after its ack"
            )

    def answer(self, asked: Future[T], what: str, budget: timedelta = timedelta(0)) -> T:
        """The answer to a question, no later than its budget and the margin of the kit after now.

        Raises:
            Unmet: there is none.
        """
        within = budget + self.subject.margin if budget else self.subject.answer_within
        try:
            return asked.result(within.total_seconds())
        except TimeoutError:
            raise Unmet(f"no answer to {what} within {format_duration(within)}{self._said_instead()}") from None
        finally:
            asked.cancel()

    def prepare_in_time(self, budget: timedelta) -> tuple[str, PrepareResult | None]:
        """Have the app prepare: see `_in_time`."""

        def ask(cycle: str) -> Future[PrepareResult]:
            return self.app.ask_prepare(cycle, requester=REQUESTER, budget=budget)

        found = self._in_time(ask, "a prepare", budget)
        return found  # noqa: RET504 - a type checker would look for a T that is None

    def freeze_in_time(self, budget: timedelta) -> tuple[str, FreezeResult | None]:
        """Have the app get quiet, for a hold whose limit does not pass: see `_in_time`."""

        def ask(cycle: str) -> Future[FreezeResult]:
            return self.app.ask_freeze(cycle, requester=REQUESTER, budget=budget, hold_limit=LONG_HOLD)

        found = self._in_time(ask, "a freeze", budget)
        return found  # noqa: RET504 - as above

    def _in_time(self, ask: Callable[[str], Future[T]], what: str, budget: timedelta) -> tuple[str, T | None]:
        """Ask with a budget that may be too short; the cycle and the answer, None: an ack that missed it by a hair.

        An app counts its budget from the arrival of the question, which is not seen here, and so is when it answered:
        on a slow machine one that is right may seem late. How long a word takes now is asked, and an ack that comes
        later than that is asked for again: one that does not count its budget is late each time.

        Raises:
            Unmet: there was none, or an ack that came after the budget.
        """
        for _ in range(TRIES):
            cycle = self.cycle()
            before = len(self.app.refusals)
            asked = ask(cycle)
            until = now() + budget + self.subject.margin
            late: timedelta | None = None
            while late is None and now() < until:
                try:
                    return cycle, asked.result(_LOOK.total_seconds())
                except TimeoutError:
                    late = self._late_by(before)
            asked.cancel()
            if late is None:
                break
            self.tolerated.add("ack_too_late")
            if late <= RACE + self._time_of_a_word():
                return cycle, None
            self.answer(self.app.ask_abort("the ack came too late", cycle), "the abort")
        seen = "no answer" if late is None else f"an ack {format_duration(late)} after its end"
        raise Unmet(
            f"{seen} to {what} with a budget of {format_duration(budget)}",
            f"an ack within the budget, or a veto at most {format_duration(self.subject.margin)} after it",
            "Count the budget from the arrival of the question; when it ends, let go and send a veto.",
        )

    def _late_by(self, before: int) -> timedelta | None:
        return next((one.late_by for one in self.app.refusals[before:] if one.late_by is not None), None)

    def _time_of_a_word(self) -> timedelta:
        """To the app and back, now."""
        return self.answer(self.app.ask_thaw(self.cycle()), "a thaw of a cycle that it does not know").took

    def _said_instead(self) -> str:
        if self.program.exit_code is not None:
            return f": {self.program.how_it_ended()}"
        if not self.app.attached:
            return ": the app has no stream"
        return f"; its last word was refused: {self.app.refusals[-1].sentence}" if self.app.refusals else ""

    def works(self) -> None:
        """Show that a whole cycle goes well now."""
        cycle, _ = self.freeze()
        self.thaw(cycle, unbroken=True)

    def await_attached(self) -> None:
        """Wait until the app has a stream."""
        self.returned(self.app.attachments if not self.app.attached else self.app.attachments - 1)

    def returned(self, since: int) -> HoldClaim | None:
        """Wait until the app has attached again; what it says it still holds.

        Args:
            since: how often it had attached before.
        """
        until = now() + self.subject.attach_within
        while not (self.app.attached and self.app.attachments > since):
            if self.program.exit_code is not None:
                raise Unmet(self.program.how_it_ended(), "the app attaches again")
            if now() > until:
                within = format_duration(self.subject.attach_within)
                raise Unmet(f"the app did not come back within {within}", "it attaches again, with back-off, for ever")
            time.sleep(0.01)
        return self.app.holding

    def await_turned_away(self, count: int, code: str) -> None:
        """Wait until so many calls in all have been refused."""
        until = now() + self.subject.attach_within
        while len(self.broker.turned_away) < count:
            if self.program.exit_code is not None:
                raise Unmet(f"{self.program.how_it_ended()}, after {code}", "it tries again")
            if now() > until:
                within = format_duration(self.subject.attach_within)
                raise Unmet(f"no call within {within} after its stream was cut", "it tries again")
            time.sleep(0.01)

    def pass_time(self, length: timedelta) -> None:
        """Let time pass: what is played here is that nothing happens meanwhile."""
        time.sleep(length.total_seconds())

    def barrier(self) -> None:
        """Make sure that the app has said what it had to say: a thaw that it cannot know is answered after all that."""
        result = self.answer(self.app.ask_thaw(self.cycle()), "a thaw of a cycle that it does not know")
        if result.unbroken:
            raise Unmet("unbroken = true for a cycle that was never frozen", "unbroken = false")

    def must(self, condition: bool, seen: str, expected: str = "", hint: str = "") -> None:
        """Raise `Unmet` unless the condition holds."""
        if not condition:
            raise Unmet(seen, expected, hint)

    def skip(self, reason: str) -> NoReturn:
        """End the case: it cannot be played."""
        raise NotPlayed(reason)
