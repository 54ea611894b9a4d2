"""`appvss agent check`: what would go wrong with every configured application, in words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appvss.cli import documents, render
from appvss.cli.invocation import Invocation, json_option
from appvss.cli.preflight.finding import Finding, Grade
from appvss.model.errors import AppUnknown, MachineUnfit

if TYPE_CHECKING:
    from appvss.adapters.base import Finding as AdapterFinding
    from appvss.agent.checking import Checked

_SHORT = "Say of every configured application what would go wrong in a freeze."


@click.command("check", short_help=_SHORT)
@click.option("--config", "file", metavar="FILE", type=click.Path(path_type=Path), help="The configuration file.")
@click.option("--app", "name", metavar="NAME", help="Look at this one alone: the NAME of its section.")
@click.option("--file-only", is_flag=True, help="Read the configuration file alone, and look at no application.")
@json_option
@click.pass_obj
def check(invocation: Invocation, file: Path | None, name: str | None, file_only: bool) -> None:
    """Say of every configured application what would go wrong in a freeze. Nothing is held, and nothing is changed.

    It connects to each application, with its account, and looks at privileges, at the settings that decide what a copy
    is worth, at what would make a freeze wait, and at the volumes that must be in the snapshot.

    Code 0: nothing, or warnings. Code 13: there are problems. Code 3: the configuration has problems. Run it as the
    agent's user.
    """
    from appvss.agent import checking
    from appvss.agent.configuration import load

    configuration = load(file)
    chosen = [app for key, app in configuration.apps.items() if name in (None, key)]
    if name is not None and not chosen:
        known = ", ".join(configuration.apps) or "none"
        raise AppUnknown(f"{configuration.origin} has no app {name!r}", f"It has these: {known}.")
    if file_only:
        render.line(f"{configuration.origin} has no problem")
        return
    found = asyncio.run(checking.check(configuration, chosen))
    unfit = [each.app.key for each in found if not each.is_fit]
    if invocation.as_json:
        render.document("agent_check", document(found))
    else:
        _show(found)
    if unfit:
        count = f"{len(unfit)} app{'s' if len(unfit) > 1 else ''}"
        raise MachineUnfit(f"a freeze of {count} would be refused: {', '.join(unfit)}", "Each problem has its hint.")


def document(found: Sequence[Checked]) -> dict[str, object]:
    """What `--json` writes (docs/reference/json.md)."""
    return {"apps": [app_document(each) for each in found], "fit": all(each.is_fit for each in found)}


def app_document(checked: Checked) -> dict[str, object]:
    """One app of it."""
    declared: dict[str, Any] = dict(checked.properties or {})
    names = (
        "grade", "auto_release", "holds_writes", "blocks_reads_while_frozen", "max_safe_freeze_seconds", "privileges",
    )  # fmt: skip
    return {
        "app": checked.app.key,
        "adapter": str(checked.app.options.adapter),
        "version": checked.version,
        "recipe": checked.recipe,
        **{name: declared.get(name) for name in names},
        "settings": dict(checked.settings or {}),
        "volumes": [
            {"kind": str(each.kind), "path": str(each.path), "mount": str(each.mount)} for each in checked.volumes
        ],
        "findings": [documents.finding(_finding(each)) for each in checked.findings],
        "fit": checked.is_fit,
    }


def _finding(finding: AdapterFinding) -> Finding:
    return Finding(finding.name, Grade(finding.severity.value), finding.sentence, finding.hint)


def _show(found: Sequence[Checked]) -> None:
    for checked in found:
        _show_app(checked)
        render.line()
    every = [finding for checked in found for finding in checked.findings]
    counts = {grade: sum(one.severity == grade for one in every) for grade in ("problem", "warning", "ok")}
    render.line(f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} ok")


def _show_app(checked: Checked) -> None:
    from appvss.adapters.base import AutoRelease
    from appvss.agent.checking import RELEASED_BY

    render.line(f"{checked.app.key}  {checked.version or checked.app.options.adapter}")
    about = []
    if checked.recipe:
        about.append(("recipe", checked.recipe))
    if checked.properties is not None:
        declared = checked.properties
        about.append(("grade", f"{declared['grade']} at most"))
        about.append(("released by", RELEASED_BY[AutoRelease(declared["auto_release"])]))
    about += [(str(each.kind), f"{each.path} on {each.mount}") for each in checked.volumes]
    if checked.settings:
        about.append(("settings", ", ".join(f"{name}={value}" for name, value in checked.settings.items())))
    if about:
        render.rows([(f"  {name}", text) for name, text in about])
    width = max((len(one.name) for one in checked.findings), default=0)
    for one in checked.findings:
        render.graded(one.severity, f"{one.name.ljust(width)}  ", one.sentence)
        if one.hint:
            render.paragraph(one.hint, " " * (width + 11) + "HINT: ", " " * (width + 11))
