"""File systems for people: what became of them in a cycle, what a freeze would do to them, how their freezer does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from appvss.cli import render
from appvss.cli.times import length_text
from appvss.model.duration import format_duration
from appvss.model.filesystem import FilesystemOutcome

if TYPE_CHECKING:
    from appvss.model.filesystem import FilesystemPart, FilesystemSurvey, LeftFilesystem, PlannedFilesystem
    from appvss.sdk.admin_filesystems import FreezerStatus

_CONDITIONS = {
    "off": "nobody here freezes any",
    "ready": "none is frozen",
    "holding": "being frozen, or held",
    "hanging": "THE KERNEL DOES NOT COME BACK",
    "lost": "THE GUARDIAN IS GONE",
}


def freezer_rows(freezer: FreezerStatus) -> Iterator[tuple[str, str]]:
    """The rows of `appvss status` about the freezer."""
    guardian = "" if freezer.guardian_pid is None else f"; the guardian is process {freezer.guardian_pid}"
    detail = f"; {freezer.detail}" if freezer.detail else ""
    yield "file systems", _CONDITIONS.get(freezer.condition, freezer.condition) + guardian + detail
    for path, since in freezer.frozen:
        yield "", f"- {path} is frozen for {length_text(since)}"
    for path in freezer.hanging:
        yield "", f"- {path} hangs in the kernel"


def show_parts(parts: Sequence[FilesystemPart]) -> None:
    """What became of file systems in a cycle, as a table."""
    render.table(
        ("FILE SYSTEM", "DEVICE", "TYPE", "OUTCOME", "FROZE IN"),
        [
            (
                part.path,
                part.device,
                part.type,
                part.outcome.value,
                "-" if part.time_to_freeze is None else format_duration(part.time_to_freeze),
            )
            for part in parts
            if part.outcome is not FilesystemOutcome.SKIPPED
        ],
    )
    for part in parts:
        if part.reason and part.outcome is not FilesystemOutcome.SKIPPED:
            render.paragraph(f"{part.path}: {part.reason}", rest="  ")
    _show_skipped(parts)


def _show_skipped(parts: Sequence[FilesystemPart | LeftFilesystem]) -> None:
    """Those in which there was nothing to freeze, or which were not reached: of a machine's whole mount table the most,
    and of no interest one by one.
    """
    paths: dict[str, list[str]] = {}
    for part in parts:
        if part.outcome is FilesystemOutcome.SKIPPED:
            paths.setdefault(part.reason or "not reached", []).append(part.path)
    for reason, skipped in paths.items():
        render.paragraph(f"not frozen, {reason}: {', '.join(skipped)}", rest="  ")


def sentence_of(part: FilesystemPart) -> str:
    """What became of one file system, in a line beside a verdict."""
    reason = f": {part.reason}" if part.reason else ""
    return f"{part.path} ({part.type}) {part.outcome}{reason}"


def is_worth_a_line(part: FilesystemPart) -> bool:
    """Whether somebody who froze it should be told of it: not when all is well, nor of what the configuration wants."""
    return part.outcome not in (FilesystemOutcome.HELD, FilesystemOutcome.EXCLUDED, FilesystemOutcome.SKIPPED)


def show_survey(survey: FilesystemSurvey) -> None:
    """What a freeze would do."""
    if survey.veto:
        render.paragraph(f"Such a freeze would be refused: {survey.veto}.")
        render.line()
    if survey.planned:
        render.table(
            ("ORDER", "FILE SYSTEM", "DEVICE", "TYPE", "SOURCE", "LIES ON"),
            [_planned_row(one, survey.planned) for one in survey.planned],
        )
        for one in survey.planned:
            if one.others:
                render.paragraph(f"{one.path} is mounted at {', '.join(one.others)}, too", rest="  ")
    else:
        render.line("no file system would be frozen")
    left = [one for one in survey.left if one.outcome is not FilesystemOutcome.SKIPPED]
    if left:
        render.line()
        render.table(
            ("NOT FROZEN", "DEVICE", "TYPE", "OUTCOME", "VERDICT", "WHY"),
            [
                (one.path, one.device, one.type, one.outcome.value, "lower" if one.lowers else "-", one.reason)
                for one in left
            ],
        )
    if len(left) < len(survey.left):
        render.line()
        _show_skipped(survey.left)
    for app in survey.apps:
        render.line()
        if app.is_apart:
            render.paragraph(f"{app.app} would not be asked: none of its paths is on a named file system.", "APP  ")
            continue
        verdict = ", and its copy would be worth less" if app.lowers else ""
        render.paragraph(f"{app.app} has paths that are not in the freeze{verdict}: {'; '.join(app.paths)}.", "APP  ")
    for warning in survey.warnings:
        render.line()
        grade = "DEAD-LOCK  " if warning.dead_locks else "NOTE  "
        render.paragraph(f"{warning.sentence}.", grade)


def _planned_row(one: PlannedFilesystem, planned: Sequence[PlannedFilesystem]) -> tuple[str, ...]:
    paths = {other.device: other.path for other in planned}
    carriers = ", ".join(paths.get(device, device) for device in one.lies_on)
    return str(one.wave), one.path, one.device, one.type, one.source, carriers or "-"
