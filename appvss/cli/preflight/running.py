"""What a running broker says of itself and of its apps. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from appvss.cli.preflight.finding import Finding, Plan, ok, problem, warning
from appvss.cli.rehearsal import ANSWER_MARGIN
from appvss.model.app import Requirement
from appvss.model.budget import share_budget
from appvss.model.duration import format_duration

if TYPE_CHECKING:
    from appvss.sdk.admin_values import AppStatus, BrokerStatus, SourceStatus

_NAMED: Final = 10
_RESTART: Final = "Restart the broker to put it in force."


def broker(status: BrokerStatus, version: str) -> Iterator[Finding]:
    """Whether it runs, and runs what is installed.

    Args:
        status: what it says.
        version: this command's.
    """
    yield ok("broker", f"{status.broker} runs as process {status.pid}")
    if status.broker != version:
        yield warning("version", f"the broker is {status.broker}, and this command is {version}", _RESTART)
    else:
        yield ok("version", f"the broker and this command are both {version}")


def agreement(status: BrokerStatus, plan: Plan) -> Iterator[Finding]:
    """Whether the broker runs with the configuration that was looked at."""
    if status.configuration != plan.origin:
        yield warning(
            "agreement",
            f"the broker runs with {status.configuration or 'built-in values'}, and {plan.origin or 'built-in values'} "
            "was looked at",
            "Name its file with --config, or restart it with the other one.",
        )
    kept = status.history.directory
    if kept and kept != str(plan.state_directory):
        yield warning(
            "agreement",
            f"the broker keeps its state in {kept}, and not in {plan.state_directory}",
            "It was started with --state-directory or APPVSS_STATE_DIRECTORY, or before the file was changed; then "
            "restart it.",
        )


def history(status: BrokerStatus) -> Iterator[Finding]:
    """Whether journal, history and certificate are kept."""
    value = status.history
    if not value.condition:
        return
    if value.condition == "keeping":
        yield ok("history", f"{value.cycles} cycles are kept in {value.directory}")
        return
    what = "cannot be kept" if value.condition == "in_memory" else f"waits to be written, {value.waiting} cycles"
    yield problem(
        "history",
        f"the history in {value.directory} {what}" + (f": {value.detail}" if value.detail else ""),
        "See the findings about the state directory; the broker tries again by itself.",
    )


def sources(status: BrokerStatus) -> Iterator[Finding]:
    """Whether requests can come."""
    for source in status.sources:
        check = f"source_{source.name}"
        if source.condition in ("serving", "off"):
            yield ok(check, f"{source.name} is {source.condition}")
        elif source.condition == "waiting" and source.mode == "automatic":
            yield ok(check, f"{source.name} waits for its device, as configured")
        else:
            detail = f": {source.detail}" if source.detail else ""
            yield problem(check, f"{source.name} is {source.condition}{detail}", "See `appvss status` and its log.")


def apps(status: BrokerStatus, values: Sequence[AppStatus]) -> Iterator[Finding]:
    """Who is missing, who is set aside, who fails."""
    if status.absent_apps:
        yield problem(
            "apps_absent",
            f"these apps must take part and are not there: {_names(status.absent_apps)}; every freeze fails",
            "Start them. Those that this machine has no more: take them out of `apps.required` and `[[apps.policy]]`.",
        )
    elif not values:
        yield warning(
            "apps_absent",
            "no app is registered and none is expected: no snapshot can be application-consistent",
            "Register the apps that matter (docs/sdk.md), and name them in `apps.required`.",
        )
    else:
        count = "one app is" if status.apps == 1 else f"{status.apps} apps are"
        yield ok("apps_absent", f"{count} registered, and none is missing")
    for value in values:
        if value.set_aside:
            yield warning(
                "apps_failing",
                f"{value.app} is set aside: {value.set_aside}",
                f"`appvss apps {value.app}` shows its failures; `appvss rehearse --count 1` lets it prove itself.",
            )
        elif value.failures_in_row:
            times = "freeze" if value.failures_in_row == 1 else f"{value.failures_in_row} freezes"
            grade = problem if value.failures_in_row > 1 and value.requirement is Requirement.REQUIRED else warning
            yield grade(
                "apps_failing",
                f"{value.app} ({value.requirement}) has failed its last {times}: {value.last_error or 'no reason'}",
                f"`appvss apps {value.app}` shows each; `appvss why` says what to do.",
            )


def limits(status: BrokerStatus, values: Sequence[AppStatus]) -> Iterator[Finding]:
    """Whether the limits of apps and sources can fit each other."""
    found = [
        finding
        for source in status.sources
        if source.condition != "off"
        for finding in (*_budget(source, values), *_hold(source, values))
    ]
    yield from found or [ok("limits", "what the apps declare fits into what the sources give")]


def _budget(source: SourceStatus, values: Sequence[AppStatus]) -> Iterator[Finding]:
    if source.budget is None:
        return
    room = source.budget - source.reserve - ANSWER_MARGIN
    given = f"{source.name} gives {format_duration(max(room, timedelta(0)))} for all apps together"
    waits = source.condition == "waiting" and source.mode == "automatic"
    hint = "Lower its `freeze_timeout` (`appvss rehearse` says what it needs), or give more time in the configuration."
    needy = [value for value in values if value.freeze_timeout is not None and value.freeze_timeout > room]
    for value in needy[:_NAMED]:
        need = format_duration(value.freeze_timeout or timedelta(0))
        if value.requirement is Requirement.REQUIRED and not waits:
            yield problem("limits", f"{value.app} needs {need} to freeze, and {given}: every such freeze fails", hint)
        else:
            yield warning("limits", f"{value.app} needs {need} to freeze, and {given}: it would be left out", hint)
    if not needy and values and share_budget(room, _needs(values)) is None:
        grade = warning if waits else problem
        yield grade(
            "limits",
            f"the apps together need more time to freeze, one order after the other, than {source.name} gives, "
            f"{format_duration(max(room, timedelta(0)))}",
            "Give one `order` to apps that need not wait for each other, or more time in the configuration.",
        )


def _needs(values: Sequence[AppStatus]) -> list[timedelta | None]:
    """The longest declared need of each order, at least; `after` can only make it more."""
    needs: dict[int, timedelta | None] = {}
    for value in values:
        if value.state != "absent":
            before = needs.get(value.order)
            needs[value.order] = max((need for need in (before, value.freeze_timeout) if need), default=None)
    return list(needs.values())


def _hold(source: SourceStatus, values: Sequence[AppStatus]) -> Iterator[Finding]:
    if source.hold_limit is None:
        return
    short = [value for value in values if value.hold_limit and value.hold_limit < source.hold_limit]
    if short:
        shortest = min(short, key=lambda value: value.hold_limit)
        yield warning(
            "limits",
            f"{source.name} may hold for {format_duration(source.hold_limit)}, and {shortest.app} lets go by itself "
            f"after {format_duration(shortest.hold_limit)}"
            + (f" ({len(short)} apps before the source's limit)" if len(short) > 1 else ""),
            "If snapshots take that long: let the app declare a longer `hold_limit`. If not: nothing is wrong.",
        )


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
