"""`appvss agent check`: a look at every configured application, each by a process of its own, several at a time.

Nothing is held and nothing is changed. What hangs is killed after its time, and what crashes is a finding.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appvss.adapters.base import Adapter, AutoRelease, Finding, Preflight, Severity, VolumeKind
from appvss.agent.child import order_of
from appvss.agent.configuration import AgentConfiguration, AppConfiguration
from appvss.agent.process import run_once
from appvss.agent.undo_places import keys_with_records, make_places
from appvss.agent.users import user_of
from appvss.model.duration import format_duration
from appvss.model.names import printable

AT_ONCE: Final = 4
"""Applications that are looked at at the same time."""


@dataclass(frozen=True, slots=True)
class CheckedVolume:
    """A path of an application, and where it lies."""

    kind: VolumeKind
    path: Path
    mount: Path
    """The mount point of the file system that it is on."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at one application has found."""

    app: AppConfiguration
    findings: tuple[Finding, ...]
    version: str = ""
    recipe: str = ""
    volumes: tuple[CheckedVolume, ...] = ()
    settings: Mapping[str, str] | None = None
    properties: Mapping[str, Any] | None = None
    """What the adapter declares (`adapters.base.Properties`), as JSON has it; None: it could not be asked."""

    @property
    def is_fit(self) -> bool:
        """Whether a freeze would not be refused."""
        return all(finding.severity is not Severity.PROBLEM for finding in self.findings)


async def check(configuration: AgentConfiguration, apps: Iterable[AppConfiguration]) -> tuple[Checked, ...]:
    """Look at some of the configured applications, in their order."""
    make_places(configuration.agent.undo_directory, configuration.apps.values())
    slots = asyncio.Semaphore(AT_ONCE)

    async def look(app: AppConfiguration) -> Checked:
        async with slots:
            return await _look(configuration, app)

    async with asyncio.TaskGroup() as tasks:
        looks = [tasks.create_task(look(app), name=f"look {app.key}") for app in apps]
    return tuple(each.result() for each in looks)


async def _look(configuration: AgentConfiguration, app: AppConfiguration) -> Checked:
    agent = configuration.agent
    try:
        code, out, error = await run_once(
            "look", order_of(agent, agent.undo_directory, app), user_of(app.options.runs_as), agent.check_timeout
        )
    except TimeoutError:
        sentence = f"{app.options.adapter} gave no answer within {format_duration(agent.check_timeout)}"
        return Checked(app, (_problem("no_answer", sentence, "Look whether it hangs, or waits for a lock."),))
    except (OSError, LookupError) as failed:
        return Checked(
            app, (_problem("look_failed", f"it cannot be looked at: {failed}", "Mend that, and try again."),)
        )
    if code != 0 or not out:
        reason = printable(error.strip().splitlines()[-1]) if error.strip() else f"it ended with code {code}"
        return Checked(app, (_problem("look_failed", f"the look has failed: {reason}", "Mend that, and try again."),))
    checked = _checked(app, json.loads(out))
    return checked if app.key not in keys_with_records(agent.undo_directory) else _with_left(checked)


def _checked(app: AppConfiguration, told: Mapping[str, Any]) -> Checked:
    volumes = tuple(
        CheckedVolume(VolumeKind(each["kind"]), Path(each["path"]), mount_of(Path(each["path"])))
        for each in told["volumes"]
    )
    findings = [
        Finding(Severity(each["severity"]), each["name"], each["sentence"], each["hint"]) for each in told["findings"]
    ]
    return Checked(
        app=app,
        findings=(*findings, *_about_volumes(volumes)),
        version=told["version"],
        recipe=told["recipe"],
        volumes=volumes,
        settings=told["settings"],
        properties=told["properties"],
    )


def _about_volumes(volumes: tuple[CheckedVolume, ...]) -> Iterable[Finding]:
    mounts = tuple(dict.fromkeys(str(each.mount) for each in volumes))
    if len(mounts) > 1:
        sentence = f"its files lie on {len(mounts)} file systems: {', '.join(mounts)}"
        hint = (
            "A snapshot that leaves one of them out, or takes them one after the other without a freeze, is worth less."
        )
        yield Finding(
            Severity.WARNING, "volumes", sentence, f"Have all of them frozen and snapshotted together. {hint}"
        )
    elif mounts:
        yield Finding(Severity.OK, "volumes", f"its files lie on one file system: {mounts[0]}")


def _with_left(checked: Checked) -> Checked:
    sentence = "a hold is in force, or was left behind: there is an undo record of the app"
    hint = "`appvss agent undo` ends what was left behind; a hold of a running agent ends by itself."
    finding = Finding(Severity.WARNING, "undo_record", sentence, hint)
    return Checked(
        checked.app,
        (*checked.findings, finding),
        checked.version,
        checked.recipe,
        checked.volumes,
        checked.settings,
        checked.properties,
    )


def mount_of(path: Path) -> Path:
    """The mount point of the file system on which a path, or what is left of it, lies."""
    return next((each for each in (path, *path.parents) if os.path.ismount(each)), Path("/"))


def _problem(name: str, sentence: str, hint: str) -> Finding:
    return Finding(Severity.PROBLEM, name, sentence, hint)


def document_of(adapter: Adapter[Any], preflight: Preflight) -> dict[str, Any]:
    """What the process that looks writes."""
    properties = adapter.properties
    longest = properties.max_safe_freeze
    return {
        "version": preflight.version,
        "recipe": preflight.recipe,
        "settings": dict(preflight.settings),
        "volumes": [{"kind": each.kind, "path": str(each.path)} for each in preflight.volumes],
        "findings": [
            {"severity": each.severity, "name": each.name, "sentence": each.sentence, "hint": each.hint}
            for each in preflight.findings
        ],
        "properties": {
            "auto_release": properties.auto_release,
            "holds_writes": properties.holds_writes,
            "blocks_reads_while_frozen": properties.blocks_reads_while_frozen,
            "max_safe_freeze_seconds": None if longest is None else longest.total_seconds(),
            "privileges": list(properties.privileges),
            "settings_read": list(properties.settings_read),
            "grade": properties.grade,
        },
    }


RELEASED_BY: Final = {
    AutoRelease.NOTHING_HELD: "nothing is held",
    AutoRelease.SESSION: "the server, when the session ends",
    AutoRelease.PROCESS: "the kernel, when the process ends",
    AutoRelease.TIMER: "the server, by a timer",
    AutoRelease.NOBODY: "an undo record, which the agent and its guardian carry out",
}
"""What frees a hold when the app is killed in it, for people."""
