"""What the demo prints: a live timeline of each cycle, a table of its verdict. Colours and a spinner on a terminal
alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from appvss.model.duration import format_duration
from appvss.model.errors import AppvssError
from appvss.model.verdict import Level, Outcome, Verdict
from appvss.sdk.admin import AdminClient
from appvss.sdk.admin_values import BrokerEvent

_WORDS = {
    "cycle_began": "[bold]request[/]    {detail}",
    "prepare_asked": "prepare   > {app}",
    "app_ready": "ready     < {app} after {took}",
    "freeze_asked": "freeze    > {app}",
    "app_froze": "[green]frozen    < {app} after {took}[/]",
    "app_failed": "[red]failed    < {app}: {detail}[/]",
    "thaw_asked": "thaw      > {app}",
    "app_thawed": "thawed    < {app}, quiet for {took}",
    "source_answered": "[bold]answer[/]     {detail}",
    "cycle_ended": "[bold]verdict[/]    {detail} (cycle took {took})",
}
"""The events that are shown, and how. The others are the same in more detail."""


class Screen:
    """Writes everything, one line at a time, from two threads."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """A line, with markup."""
        with self._lock:
            self.console.print(text, soft_wrap=True)

    def title(self, text: str) -> None:
        """The beginning of a part."""
        self.say("")
        if self.console.is_terminal:
            self.console.rule(f"[bold]{text}", align="left")
        else:
            self.say(f"== {text}")

    @contextmanager
    def progress(self, text: str) -> Iterator[None]:
        """A spinner with a text, on a terminal; elsewhere nothing."""
        if not self.console.is_terminal:
            yield
            return
        status = self.console.status(text)
        status.start()
        try:
            yield
        finally:
            with self._lock:  # not while a line is being written, or the spinner's last picture stays there
                status.stop()

    @contextmanager
    def timeline(self, client: AdminClient) -> Iterator[None]:
        """Show the events of the broker as they happen, inside this block."""
        events = client.watch()
        thread = threading.Thread(target=self._follow, args=(events,), name="timeline", daemon=True)
        with closing(client):
            thread.start()
            yield
        thread.join(5)

    def _follow(self, events: Iterator[BrokerEvent]) -> None:
        try:
            for event in events:
                self._show(event)
                if event.kind == "cycle_ended":
                    self._ended.set()
        except AppvssError:
            return  # the block has ended, and the call with it

    def _show(self, event: BrokerEvent) -> None:
        form = _WORDS.get(event.kind)
        if form is None or event.since_request is None:
            return
        took = format_duration(event.took) if event.took is not None else "an unknown time"
        at = event.since_request.total_seconds() * 1000
        self.say(f"{at:9.1f} ms  " + form.format(app=escape(event.app), detail=escape(event.detail), took=took))

    def wait_for_verdict(self, seconds: float) -> bool:
        """Wait until the running cycle's end has been shown."""
        ended = self._ended.wait(seconds)
        self._ended.clear()
        return ended

    def verdict(self, verdict: Verdict) -> None:
        """One cycle's verdict, app by app."""
        colour = "green" if verdict.level is Level.APPLICATION else "red"
        hold = f", held for {format_duration(verdict.hold)}" if verdict.hold is not None else ""
        title = f"verdict: [{colour}]{verdict.level}[/]{hold}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in ("app", "outcome", "frozen after", "quiet for", "evidence or reason"):
            table.add_column(column, overflow="fold")
        for part in verdict.outcomes:
            evidence = ", ".join(f"{key}={value}" for key, value in part.evidence.items())
            table.add_row(
                escape(str(part.app)),
                f"[{'green' if part.outcome is Outcome.HELD else 'red'}]{part.outcome}[/]",
                format_duration(part.time_to_freeze) if part.time_to_freeze is not None else "-",
                format_duration(part.hold) if part.hold is not None else "-",
                escape(part.reason or evidence),
            )
        with self._lock:
            self.console.print(table)
