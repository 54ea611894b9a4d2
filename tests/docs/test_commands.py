"""Every `appvss` command that the pages show is one that can be typed, and one that is typed in a test.

The pages on how to install the broker are followed by tests/packaging/test_how_to.py, the README by test_readme.py,
and docs/reference/commands.md is drawn from the commands themselves.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from appvss.cli.invocation import Invocation
from appvss.cli.main import appvss
from appvss.model.errors import ExitCode
from tests.cli.command_line import Done, run_apart
from tests.docs.tables import DOCS, ROOT
from tests.docs.test_guarantees import names_in
from tests.support.app_process import app_process
from tests.support.running_broker import QUIET, RunningBroker, running_broker

NOT_HERE: Final = {DOCS / "install-linux.md", DOCS / "install-freebsd.md", DOCS / "reference" / "commands.md"}
PAGES: Final = sorted({*DOCS.rglob("*.md"), ROOT / "README.md"} - NOT_HERE)
ELSEWHERE: Final = {
    r"appvss broker\b.*": ("tests/docs/test_readme.py", "test_the_lines_to_try_by_hand_work_as_they_are_typed"),
    r"appvss simulate\b.*": ("tests/docs/test_readme.py", "test_the_lines_to_try_by_hand_work_as_they_are_typed"),
    r"appvss verify --app orders-db /backup.*": (
        "tests/databases/test_verified_images.py",
        "test_a_copy_from_a_cycle_is_app_verified_and_one_without_is_not",
    ),
    r"appvss freeze -- ls .*": ("tests/docs/test_readme.py", "test_the_lines_to_try_by_hand_work_as_they_are_typed"),
    r"appvss check-app\b.*": ("tests/testing/test_guide.py", "test_the_lines_of_the_page_are_typed_as_they_stand"),
    r"appvss watch": ("tests/cli/test_questions.py", "test_watch_shows_every_event_at_once_and_ends_cleanly_at_ctrl_c"),
}
"""Lines that do not end by themselves or need a device, and the test that types them."""
ENDS: Final = {
    "appvss doctor": {ExitCode.SUCCESS, ExitCode.UNFIT},
    "appvss agent check --config FILE": {ExitCode.UNFIT},  # the application of the test is none
}
"""Where the machine on which the tests run may have something to say."""


def _without_comment(line: str) -> str:
    return re.sub(r"\s+#.*", "", line).strip()


def _shown(page: Path) -> Iterator[str]:
    """The commands on lines of their own, as a person types them."""
    typed = re.findall(r"^    (appvss .+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return map(_without_comment, typed)


def _mentioned(page: Path) -> Iterator[str]:
    """The commands in the middle of a sentence."""
    found = re.findall(r"(?<!`)`(appvss [^`]+)`(?!`)", page.read_text(encoding="utf-8"))
    return (" ".join(each.split()) for each in found)


SHOWN: Final = sorted({line for page in PAGES for line in _shown(page)})
EVERY: Final = sorted({*SHOWN, *(line for page in PAGES for line in _mentioned(page))})


def words(line: str) -> list[str]:
    """The arguments of a line, without where its output goes."""
    return shlex.split(re.sub(r"\s+>.*", "", line))[1:]


def parse(line: str) -> None:
    """Have click read a command line, and carry nothing out.

    Raises:
        click.UsageError: it cannot be typed.
    """
    command: click.Command = appvss
    rest = words(line)
    while isinstance(command, click.Group) and rest:
        name, *rest = rest
        found = command.get_command(click.Context(command), name)
        if found is None:
            raise click.UsageError(f"no command {name}")
        command = found
    if not isinstance(command, click.Group):  # a group alone is the name of its commands
        command.make_context("appvss", rest, obj=Invocation())


@pytest.mark.parametrize("line", EVERY)
def test_every_command_of_the_pages_can_be_typed(line: str) -> None:
    with contextlib.ExitStack() as stack:
        if line not in SHOWN:  # a sentence may name a command without its arguments
            stack.enter_context(contextlib.suppress(click.MissingParameter))
        parse(line)


def test_a_command_that_cannot_be_typed_is_found() -> None:
    for line in ("appvss frobnicate", "appvss status --policies", "appvss config sample now"):
        with pytest.raises(click.UsageError):
            parse(line)


def test_commands_are_found_on_the_pages() -> None:
    assert {"appvss doctor", "appvss why CYCLE", "appvss thaw", "appvss freeze -- COMMAND..."} <= set(SHOWN)
    assert {"appvss status --policy", "appvss history --since 3d --level crash"} <= set(EVERY)


# -- and typed


HERE: Final = [line for line in SHOWN if not any(re.fullmatch(pattern, line) for pattern in ELSEWHERE)]


def test_what_is_typed_in_another_test_is_typed_there() -> None:
    for pattern, (file, name) in ELSEWHERE.items():
        assert [line for line in SHOWN if re.fullmatch(pattern, line)], f"no page shows {pattern} any more"
        assert name in names_in(file)


@pytest.fixture
async def broker() -> AsyncIterator[RunningBroker]:
    """With one app, whose name the pages leave open."""
    async with (
        running_broker(QUIET) as broker,
        app_process(broker.runtime_directory, "orders-db") as app,
    ):
        await app.line("welcome")
        yield broker


async def test_every_command_of_the_pages_is_typed(broker: RunningBroker) -> None:
    image, kept = broker.directory / "image", broker.directory / "kept"
    environment = {"APPVSS_RUNTIME_DIRECTORY": str(broker.runtime_directory), "NO_COLOR": "1"}

    async def appvss(*arguments: str) -> Done:
        return await run_apart(*arguments, environment=environment)

    cycles = []
    for place in (image, kept):  # the second one has the first one's cycle in its history
        copied = await appvss("freeze", "--json", "--", "cp", "-r", str(broker.state_directory), str(place))
        assert copied.code == ExitCode.SUCCESS, copied
        cycles.append(copied.document["cycle"])
    agent = broker.directory / "agent.toml"
    agent.write_text('[apps.orders]\nadapter = "exec"\ncommand = ["/bin/cat"]\n')
    stands_for = {
        r"(?<=agent check --config )FILE": str(agent),
        r"--history \S+": f"--history {kept}",
        r"/mnt/image/var/lib/appvss|\bDIRECTORY\b": str(image),
        r"\bNAME\b": "orders-db",
        r"\bCYCLE\b": cycles[0],
        r"\bCOMMAND\.\.\.": "true",
        r"\bFILE\b": str(broker.file),
    }
    for line in HERE:
        typed = line
        for pattern, place in stands_for.items():
            typed = re.sub(pattern, str(place), typed)
        done = await appvss(*words(typed))
        assert done.code in ENDS.get(line, {ExitCode.SUCCESS}), (typed, done)
        assert "Traceback" not in done.err
