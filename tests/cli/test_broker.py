from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from appvss import contract
from appvss.model.errors import ExitCode
from tests.cli.command_line import run_apart
from tests.support.running_broker import short_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    """A new directory whose path leaves room for the sockets'."""
    path = short_directory()
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("from_environment", [False, True])
async def test_the_state_directory_comes_from_the_command_line_then_from_the_environment(
    directory: Path, from_environment: bool
) -> None:
    run, elsewhere = str(directory / "run"), str(directory / "elsewhere")
    file = directory / "broker.toml"
    file.write_text(f'[broker]\nstate_directory = "{elsewhere}"\n')
    option = () if from_environment else ("--state-directory", run)
    environment: Mapping[str, str] = {contract.STATE_DIRECTORY_VARIABLE: run if from_environment else elsewhere}
    # The one combination that is refused before anything is made shows which of the three counted.
    arguments = ("--config", str(file), "--runtime-directory", run, *option)
    done = await run_apart("broker", *arguments, environment=environment)
    assert done.code == ExitCode.USAGE, done
    assert done.err.splitlines() == [
        f"appvss: {run} is the runtime directory, and the state directory too",
        "HINT: Name two directories: the broker alone may enter the one, and apps must enter the other.",
    ]
