"""`appvss apps`: who takes part, who holds, who is missing, who fails; and one app in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from appvss.cli import documents, render
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.cli.policy_table import show_policy
from appvss.cli.times import length_text, local_time
from appvss.cli.who import who
from appvss.model.duration import format_duration
from appvss.model.errors import AppUnknown
from appvss.model.grade import Grade
from appvss.model.names import printable

if TYPE_CHECKING:
    from appvss.sdk.admin_values import AppPast, AppStatus


@click.command("apps", short_help="List the apps: who takes part, who holds, who is missing.")
@runtime_directory_option
@json_option
@click.argument("name", required=False)
@click.pass_obj
def apps(invocation: Invocation, name: str | None) -> None:
    """List the apps in the order of the freeze: who takes part, who holds, who is missing, who fails.

    With NAME (or NAME[INSTANCE]) that app is shown in full: limits and where they come from, paths, who it is, and its
    last outcomes. ORDER and REQUIREMENT are what counts in the next freeze; LAST is the outcome in the last cycle.
    """
    with invocation.client() as client:
        values = client.apps()
    if name is not None:
        values = _named(values, name)
    if invocation.as_json:
        render.document("apps", {"apps": [documents.app(value) for value in values]})
    elif name is not None:
        for number, value in enumerate(values):
            if number:
                render.line()
            _show_one(value)
    elif values:
        _show_list(values)
    else:
        render.line("no app is registered, and none is expected")


def _named(values: tuple[AppStatus, ...], name: str) -> tuple[AppStatus, ...]:
    found = tuple(value for value in values if name in (value.app.name, str(value.app)))
    if not found:
        raise AppUnknown(
            f"no app {printable(name, 64)!r} is registered, and none of that name is expected",
            "`appvss apps` lists those that are.",
        )
    return found


def _show_list(values: Sequence[AppStatus]) -> None:
    render.table(
        ("APP", "STATE", "FOR", "REQUIREMENT", "ORDER", "LAST", "WHO"),
        [
            (
                str(value.app),
                "set aside" if value.set_aside and value.state == "registered" else value.state,
                length_text(value.since),
                value.requirement.value,
                str(value.order),
                value.last_outcome.outcome.value if value.last_outcome else "-",
                _who(value),
            )
            for value in values
        ],
    )
    troubled = [(value, text) for value in values for text in _troubles(value)]
    if troubled:
        render.line()
    for value, text in troubled:
        render.paragraph(f"{value.app}: {text}", rest="  ")


def _troubles(value: AppStatus) -> Iterator[str]:
    """What an administrator should know of an app, a sentence each."""
    if value.set_aside:
        yield f"{_without_name(value.set_aside)}; it is not asked to freeze"
    elif value.failures_in_row > 1:
        yield f"it has failed its last {value.failures_in_row} freezes"
    if value.last_error:
        ago = "" if value.last_error_ago is None else f" ({length_text(value.last_error_ago)} ago)"
        yield f"{value.last_error}{ago}"


def _without_name(reason: str) -> str:
    return reason.rstrip(".")


def _who(value: AppStatus) -> str:
    if value.state == "absent":
        return "-"
    if value.peer is None:
        return "unidentified"
    return f"uid {value.peer.uid}, pid {value.peer.pid}"


def _show_one(value: AppStatus) -> None:
    render.rows(list(_rows(value)))
    if value.policy:
        render.line()
        show_policy(value.policy)
    if value.past:
        render.line()
        _show_past(value.past)


def _rows(value: AppStatus) -> Iterator[tuple[str, str]]:
    yield "app", str(value.app)
    yield "state", f"{value.state}, for {length_text(value.since)}"
    if value.set_aside:
        yield "set aside", _without_name(value.set_aside)
    yield "who", "-" if value.state == "absent" else who(value.peer)
    if value.library:
        yield "library", value.library
    yield "requirement", value.requirement.value
    yield "order", str(value.order) + (f", after {', '.join(value.after)}" if value.after else "")
    need = "what there is" if value.freeze_timeout is None else format_duration(value.freeze_timeout)
    yield "needs", f"{need}, to get quiet"
    if value.hold_limit:
        yield "holds", f"at most {format_duration(value.hold_limit)}"
    yield (
        "paths",
        (", ".join(value.paths) or "none declared") + ("; watched while it is held" if value.watch_paths else ""),
    )
    if value.grade is not Grade.APP:
        yield "worth", f"{value.grade} at most: it only stands still"
    times = "once" if value.registrations == 1 else f"{value.registrations} times"
    yield "registered", f"{times} since the broker started" if value.registrations else "-"
    if value.refused_messages:
        yield "refused", f"{value.refused_messages} of its messages: see docs/errors.md, refusals of the protocol"
    row = f"{value.failures_in_row} in a row" if value.failures_in_row else "none in a row"
    yield "failures", row
    if value.last_error:
        ago = "" if value.last_error_ago is None else f", {length_text(value.last_error_ago)} ago"
        yield "last error", f"{value.last_error}{ago}"


def _show_past(past: Sequence[AppPast]) -> None:
    render.table(
        ("CYCLE", "WHEN", "OUTCOME", "FROZE IN"),
        [
            (
                one.cycle,
                local_time(one.time)[:19],
                one.outcome.value,
                "-" if one.time_to_freeze is None else format_duration(one.time_to_freeze),
            )
            for one in past
        ],
    )
    told: set[str] = set()
    for one in past:
        if one.reason and one.reason not in told:  # an app that fails mostly fails in one way
            told.add(one.reason)
            render.paragraph(f"{one.cycle}: {one.reason}", rest="  ")
