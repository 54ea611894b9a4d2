"""`appvss doctor`: what would fail a freeze, or leave it unproven, found before there is one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from appvss.cli import documents, render
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.model.errors import AppvssError, BrokerUnreachable, ConfigurationInvalid, MachineUnfit
from appvss.model.version import VERSION

if TYPE_CHECKING:
    from appvss.cli.preflight.finding import Finding, Plan
    from appvss.model.filesystem import FilesystemSurvey
    from appvss.sdk.admin_values import AppStatus, BrokerStatus

_NO_BROKER: Final = "no broker is running"
_OF_HOSTS: Final = ("linux_hv_vss", "linux_netlink")
"""The sources whose requesters want every file system frozen."""


@click.command("doctor", short_help="Find what would fail a freeze, before there is one.")
@click.option(
    "--config",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The broker's configuration file. Else the one that it reads by itself.",
)
@runtime_directory_option
@json_option
@click.pass_obj
def doctor(invocation: Invocation, file: Path | None) -> None:
    """Find what would fail a freeze, or leave it unproven, before there is one. It changes nothing and freezes nothing.

    It looks at the configuration, the sockets and who may use them, the state directory and its disk, the log, the
    devices, the rights to freeze file systems, the limits of the machine, the clocks; and, when a broker runs, at what
    it says of its sources, its apps and the file systems.

    Each finding is ok, a warning (a freeze works all the same) or a problem, and says what to do. Code 0: no problem.
    Code 13: there are problems. Run it as the broker's user, usually root.
    """
    findings = list(_findings(invocation, file))
    problems = [one for one in findings if one.grade == "problem"]
    if invocation.as_json:
        render.document("doctor", {"findings": [documents.finding(one) for one in findings], "fit": not problems})
    else:
        _show(findings)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        names = ", ".join(dict.fromkeys(one.check for one in problems))
        raise MachineUnfit(
            f"{count} would fail a freeze or leave it unproven: {names}", "Each has a hint of its own, above."
        )


def _findings(invocation: Invocation, file: Path | None) -> Iterator[Finding]:
    from appvss.cli.preflight import machine
    from appvss.history.boot import boot_identity, is_known

    began, monotonic = datetime.now(UTC), time.monotonic()
    yield from machine.user()
    plan, found = _plan(invocation, file)
    yield from found
    answers, found = _ask(invocation, plan)
    yield from found
    status = answers.status if answers is not None else None
    yield from _about_places(plan, status)
    if answers is not None:
        yield from _about_broker(answers)
    newest = status.last_cycle.time if status is not None and status.last_cycle is not None else None
    yield machine.wall_clock(datetime.now(UTC), newest)
    yield machine.clock_steps(datetime.now(UTC) - began, timedelta(seconds=time.monotonic() - monotonic))
    yield from machine.synchronised()
    yield machine.boot(is_known(boot_identity()))


def _plan(invocation: Invocation, file: Path | None) -> tuple[Plan | None, list[Finding]]:
    """What the configuration says; None, with problems, when it cannot be had."""
    from appvss import contract
    from appvss.broker.configuration import load, with_overrides
    from appvss.broker.policy import notes
    from appvss.cli.preflight.finding import Plan, ok, problem, warning

    runtime = invocation.runtime_directory or os.environ.get(contract.RUNTIME_DIRECTORY_VARIABLE)
    state = os.environ.get(contract.STATE_DIRECTORY_VARIABLE)
    try:
        configuration = with_overrides(
            load(file),
            runtime_directory=Path(runtime) if runtime else None,
            state_directory=Path(state) if state else None,
        )
    except ConfigurationInvalid as error:
        return None, [problem("configuration", one, error.hint) for one in error.problems]
    except AppvssError as error:
        return None, [problem("configuration", error.sentence, error.hint)]
    sources = configuration.sources
    freebsd, local, linux = sources.freebsd, sources.local, sources.linux_hv_vss
    plan = Plan(
        runtime_directory=configuration.broker.runtime_directory,
        state_directory=configuration.broker.state_directory,
        socket_group=configuration.broker.socket_group,
        app_limit=configuration.apps.limit,
        device=freebsd.device,
        device_mode=freebsd.mode,
        hold_limit=max(freebsd.hold_limit, local.hold_limit, linux.hold_limit),
        origin=configuration.origin,
        linux_device=linux.device,
        linux_device_mode=linux.mode,
        freezes_filesystems=sys.platform.startswith("linux") and configuration.filesystems.mode != "off",
    )
    what = f"{plan.origin} has no problem" if plan.origin else "there is no file; the built-in values are used"
    found = [ok("configuration", what)]
    found += [warning("configuration", note, "`appvss config check` shows it, too.") for note in notes(configuration)]
    return plan, found


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a running broker says."""

    status: BrokerStatus
    apps: tuple[AppStatus, ...]
    filesystems: FilesystemSurvey | None
    """What a freeze would do; None: nobody here freezes any."""
    serves_host: bool
    """Whether a host may ask for a freeze of all of them."""


def _ask(invocation: Invocation, plan: Plan | None) -> tuple[_Answers | None, list[Finding]]:
    """What a running broker says; None when there is none."""
    from appvss.cli.preflight import running
    from appvss.cli.preflight.finding import problem, warning
    from appvss.model.filesystem import FilesystemChoice, Scope
    from appvss.sdk.admin import AdminClient

    directory = invocation.runtime_directory or (str(plan.runtime_directory) if plan is not None else None)
    try:
        with AdminClient(directory) as client:
            status, apps = client.status(), client.apps()
            serves = any(one.name in _OF_HOSTS and one.condition == "serving" for one in status.sources)
            freezes = status.freezer is not None and status.freezer.condition not in ("off", "hanging")
            choice = FilesystemChoice(Scope.ALL if serves else Scope.DECLARED)
            answers = _Answers(status, apps, client.filesystems(choice) if freezes else None, serves)
    except BrokerUnreachable as error:
        grade = warning if error.sentence.startswith(_NO_BROKER) else problem
        return None, [grade("broker", error.sentence, error.hint)]
    except AppvssError as error:
        return None, [problem("broker", error.sentence, error.hint)]
    found = list(running.broker(status, f"appvss/{VERSION}"))
    if plan is not None:
        found += running.agreement(status, plan)
    return answers, found


def _device_of(status: BrokerStatus, name: str) -> str:
    """The device that a source serves; empty: none."""
    serves = any(source.name == name and source.condition == "serving" for source in status.sources)
    written = [value.value for value in status.policy if value.key == f"sources.{name}.device"]
    return written[0].strip('"') if serves and written else ""


def _about_places(plan: Plan | None, status: BrokerStatus | None) -> Iterator[Finding]:
    """Directories, sockets, locks, devices, and the process of the broker."""
    from appvss.cli.preflight import devices, linux, machine, places
    from appvss.cli.preflight.finding import Daemon

    daemon = None
    if status is not None:
        served = (_device_of(status, name) for name in ("freebsd", "linux_hv_vss"))
        daemon = Daemon(status.pid, _user_of(status.pid), *served)
    if plan is not None:
        yield from places.runtime_directory(plan, daemon)
        yield places.socket_group(plan)
        kept = status.history.directory if status is not None else ""
        state = Path(kept) if kept else plan.state_directory
        yield from places.state_directory(state, daemon)
        if status is None:
            yield from _history_at_rest(state)
        yield devices.device(plan, daemon)
        if sys.platform.startswith("linux"):
            yield linux.hyperv_device(plan, daemon)
            yield linux.rights(plan, daemon)
        yield machine.descriptors(plan, daemon)
    yield from machine.priority(daemon)
    yield from machine.log(daemon)


def _user_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _history_at_rest(directory: Path) -> Iterator[Finding]:
    """Whether the history of a broker that does not run can be read."""
    from appvss.cli.preflight.finding import ok, problem
    from appvss.history import read_history
    from appvss.history.schema import FILE

    if not (directory / FILE).exists():
        yield ok("history", f"there is no history in {directory} yet")
        return
    try:
        read_history(directory).close()
    except AppvssError as error:
        yield problem("history", error.sentence, error.hint)
    else:
        yield ok("history", f"the history in {directory} can be read")


def _about_broker(answers: _Answers) -> Iterator[Finding]:
    from appvss.cli.preflight import filesystems, linux, running

    status, apps = answers.status, answers.apps
    guardian = None if status.freezer is None else status.freezer.guardian_pid
    yield from running.history(status)
    yield from running.sources(status)
    yield from filesystems.freezer(status.freezer, linux.is_locked(guardian))
    if answers.filesystems is not None:
        yield from filesystems.survey(answers.filesystems, answers.serves_host)
    yield from running.apps(status, apps)
    yield from running.limits(status, apps)


def _show(findings: Sequence[Finding]) -> None:
    width = max(len(one.check) for one in findings)
    for one in findings:
        render.graded(one.grade, f"{one.check.ljust(width)}  ", one.sentence)
        if one.hint:
            render.paragraph(one.hint, " " * (width + 11) + "HINT: ", " " * (width + 11))
    counts = {grade: sum(one.grade == grade for one in findings) for grade in ("problem", "warning", "ok")}
    render.line()
    render.line(f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} ok")
