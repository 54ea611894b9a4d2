"""The pages that promise something are complete: what they list is exactly what there is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from appvss.adapters import errors as adapter_errors
from appvss.cli import documents, reference
from appvss.cli.freeze_run import FreezeReport
from appvss.cli.main import run
from appvss.cycle import apps as core_apps
from appvss.model import errors
from appvss.model.errors import AppvssError, ExitCode
from appvss.model.event import EventKind
from appvss.model.phase import Phase
from appvss.sdk.admin_filesystems import survey_of
from appvss.sdk.admin_values import app_of, event_of, status_of, summary_of
from tests.docs import tables
from tests.docs.tables import DOCS, ROOT, section
from tests.sdk.broker_peer import apps, event, filesystems, status, summary

PACKAGE = ROOT / "appvss"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


def rows(text: str) -> list[list[str]]:
    """The cells of every row of the tables in a text, without their heads and without the marks of code."""
    return [[cell.strip("`") for cell in row] for row in tables.rows(text)]


def every_error() -> dict[str, type[AppvssError]]:
    return {
        name: kind
        for module in (errors, adapter_errors)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, AppvssError)
    }


def test_every_exit_code_is_documented_and_no_other() -> None:
    documented = [(int(code), name) for code, name, *_ in rows(section("errors.md", "## Exit codes"))]
    assert documented == [(code.value, code.name) for code in ExitCode]


def test_every_error_is_documented_with_its_code_and_no_other() -> None:
    documented = [(name, int(code)) for name, code, *_ in rows(section("errors.md", "## Errors"))]
    assert dict(documented) == {name: kind.exit_code.value for name, kind in every_error().items()}
    assert len(documented) == len(every_error())


def test_every_error_stands_in_the_tree_of_its_module() -> None:
    trees = f"{errors.__doc__} {adapter_errors.__doc__}"
    assert all(re.search(rf"\b{name}\b", trees) for name in every_error())


def test_every_cell_of_the_tables_of_errors_says_something() -> None:
    text = section("errors.md", "## Exit codes") + section("errors.md", "## Errors")
    assert all(len(row) == 4 and all(row) for row in rows(text))


FIELDS: dict[str, Mapping[str, object]] = {
    "## `status`": documents.status(status_of(status())),
    "## `apps`": {"apps": []},
    "## `event`": documents.event(event_of(event("cycle_began"))),
    "## `thaw`": {"thawed_cycle": None},
    "## `freeze`": documents.freeze(FreezeReport(("true",))),
    "## `error`": dict.fromkeys(("name", "sentence", "hint", "problems", "exit_code")),
    "### source": documents.status(status_of(status()))["sources"][0],  # type: ignore[index]  # it is a list
    "### cycle": documents.summary(summary_of(summary())),
    "### verdict": documents.verdict(summary_of(summary()).verdict),
    "### file system": documents.filesystem(summary_of(summary()).verdict.filesystems[0]),
    "## `filesystems`": documents.filesystems(survey_of(filesystems())),
    "### outcome": documents.outcome(summary_of(summary()).verdict.outcomes[0]),
    "### app": documents.app(app_of(apps()[0])),
}


@pytest.mark.parametrize("heading", FIELDS)
def test_every_field_of_every_object_is_documented_and_no_other(heading: str) -> None:
    text = section("reference/json.md", heading)
    assert [row[0] for row in rows(text)] == list(FIELDS[heading])
    assert all(len(row) == 3 and all(row) for row in rows(text))


def test_every_phase_is_documented() -> None:
    (meaning,) = [row[2] for row in rows(section("reference/json.md", "## `status`")) if row[0] == "phase"]
    assert set(Phase) <= {*re.findall(r"`([a-z_]+)`", meaning)}


def test_the_page_of_commands_is_up_to_date() -> None:
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert page == reference.reference(), "run `python docs/generate.py`"


def test_the_page_of_commands_has_every_command_and_every_option() -> None:
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    for path, command, _ in reference.commands():
        text = page.partition(f"\n## `{path}`\n")[2].partition("\n## ")[0]
        assert text, path
        for parameter in command.params:
            assert all(option in text for option in parameter.opts if option.startswith("-")), (path, parameter.opts)


def test_every_option_has_a_help_text() -> None:
    for path, command, _ in reference.commands():
        assert command.help, path
        for parameter in command.params:
            assert not parameter.opts[0].startswith("-") or getattr(parameter, "help", None), (path, parameter.opts)


def anchors(page: Path) -> set[str]:
    """What a link into a page may name: its headings, as they are shown in the web."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            there = page.parent / file if file else page
            assert there.exists(), link
            assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page: Path) -> None:
    """In docs/map.md and docs/guarantees.md most of what is said is a path."""
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:appvss|tests|docs|proto|samples|packaging|benchmarks)/[a-z_][\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def test_every_help_text_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for path, _, _ in reference.commands():
        assert run([*path.split()[1:], "--help"]) == ExitCode.SUCCESS
        assert "Usage: " + path in capsys.readouterr().out


def test_every_refusal_of_the_protocol_is_documented_and_no_other() -> None:
    code = "".join(path.read_text() for room in ("cycle", "delivery") for path in (PACKAGE / room).glob("*.py"))
    names = set(re.findall(r'refuse\(\s*(?:app, )?"([a-z_]+)"', code)) | set(core_apps._REFUSALS.values())
    documented = {name for name, *_ in rows(section("errors.md", "## Refusals of the protocol"))}
    assert documented == names | {"ack_too_late", "MessageInvalid"}


def test_every_kind_of_event_is_documented_and_no_other() -> None:
    page = (DOCS / "reference" / "events.md").read_text(encoding="utf-8")
    assert [name for name, *_ in rows(page)] == [kind.value for kind in EventKind]


def test_the_map_has_every_room_and_names_what_is_in_it() -> None:
    described = {path.strip("/"): text for path, text in rows(section("map.md", "## The rooms"))}
    rooms = {f"appvss/{path.name}" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(described)
    for room in rooms - {"appvss/v1"}:
        for name in re.findall(r"`([a-z_]+)/?`", described[room]):
            assert (ROOT / room / f"{name}.py").exists() or (ROOT / room / name).is_dir(), (room, name)
