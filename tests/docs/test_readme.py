"""The README, followed as a new user follows it: what it tells people to type is typed here."""

from __future__ import annotations

import asyncio
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from appvss.model.errors import ExitCode
from appvss.sdk.testing import FakeBroker
from tests.simulator.conftest import requires_fuse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOUND = 60
"""Seconds."""

__all__ = ["requires_fuse"]


def code_after(heading: str, fence: str = "", number: int = 0) -> list[str]:
    """The lines of a block of code below a heading: the first one, or another by its number; indented, or fenced with
    this language.
    """
    text = README.partition(f"\n{heading}\n")[2]
    assert text, heading
    if fence:
        return text.partition(f"```{fence}\n")[2].partition("```")[0].splitlines()
    blocks: list[str] = re.findall(r"(?:\A|\n)\n((?:    .*\n)+)", text.partition("\n## ")[0])
    return [line[4:] for line in blocks[number].splitlines()]


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rm") as name:
        yield Path(name)


def run(line: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        shlex.split(line), env=environment, cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=False
    )


def wait_for(line: str, words: str, environment: dict[str, str]) -> str:
    """Type a line until it shows these words, as a person would who waits for something to come up."""
    give_up = time.monotonic() + BOUND
    while True:
        done = run(line, environment)
        if words in done.stdout:
            return done.stdout
        assert time.monotonic() < give_up, (line, words, done.stdout, done.stderr)


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 150
    assert [line for line in README.splitlines() if len(line) > 140 and not line.startswith("|")] == []


def test_the_two_commands_are_verbs_of_the_makefile() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = code_after("## See it")
    assert commands == ["make demo", "make test"]
    assert {command.split()[1] for command in commands} <= verbs
    assert set(re.findall(r"`make ([a-z]+)", README)) == {"demo", "soak"}
    assert {"demo", "test", "soak", "lint", "proto", "bench"} <= verbs


async def test_the_app_in_fifteen_lines_is_an_app() -> None:
    lines = code_after("## An app in 15 lines", "python")
    assert len([line for line in lines if line.strip()]) <= 15
    async with FakeBroker() as broker:
        environment = dict(os.environ, APPVSS_RUNTIME_DIRECTORY=str(broker.runtime_directory))
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "\n".join(lines), env=environment)
        try:
            app = await broker.app("orders-db")
            held = await app.freeze()
            assert held.evidence == {"position": "42"}
            assert (await app.thaw()).unbroken
        finally:
            process.kill()
            await process.wait()


def test_the_lines_to_try_by_hand_work_as_they_are_typed(requires_fuse: None) -> None:
    lines = code_after("## Try it by hand")
    with folder() as place, ExitStack() as ends:
        # Its fixed folders are replaced, so that two runs of the tests do not meet; nothing else is.
        typed = [line.replace("/tmp/", f"{place}/") for line in lines]
        environment = environment_in(place)
        simulator, broker, *apps = typed[:4]
        status, app_list, backup, freeze = typed[4:]
        ends.enter_context(running(simulator, environment, "hv_appvss_dev"))
        ends.enter_context(running(broker, environment))
        for app in apps:
            ends.enter_context(running(app, environment))
        wait_for(status, "2 registered", environment)
        shown = wait_for(status, "serving", environment)
        assert "freebsd" in shown
        listed = run(app_list, environment).stdout
        assert "smallest-asyncio" in listed
        assert "smallest-threads" in listed
        backed_up = run(backup, environment)
        assert backed_up.returncode == 0, backed_up
        frozen = run(freeze, environment)
        assert frozen.returncode == 0, frozen
        assert "one.txt" in frozen.stdout
        assert "application" in frozen.stderr


def test_what_matters_is_found_measured_listed_and_explained() -> None:
    doctor, rehearse, history, why = code_after("## When it matters")
    shown = code_after("## When it matters", number=1)
    with folder() as place, ExitStack() as ends:
        environment = environment_in(place)
        ends.enter_context(running("appvss broker", environment))
        ends.enter_context(running(f"python samples/smallest_asyncio.py {place}/one.txt", environment))
        hanging = ends.enter_context(running(f"python samples/smallest_threads.py {place}/two.txt", environment))
        wait_for("appvss status", "2 registered", environment)
        assert "runs as process" in run(doctor, environment).stdout
        assert run(rehearse, environment).returncode == 0
        hanging.send_signal(signal.SIGSTOP)
        assert run("appvss freeze --freeze-budget 3s -- true", environment).returncode == ExitCode.REFUSED
        hanging.send_signal(signal.SIGCONT)
        levels = [line.split()[1] for line in run(history, environment).stdout.splitlines() if line.startswith("20")]
        assert levels == ["failed"] + 5 * ["application"]
        assert "\n".join(map(anybody, shown)) in anybody(run(why, environment).stdout)


def anybody(text: str) -> str:
    """What it says of any process of any user, after however much of the time had gone before the app was asked."""
    return re.sub(r"(user|process|-p|within) [\w.]+", r"\1 *", text)


def environment_in(place: Path) -> dict[str, str]:
    """For everything that is typed, with `appvss` and `python` of this interpreter first in the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    places = {"APPVSS_RUNTIME_DIRECTORY": f"{place}/appvss", "APPVSS_STATE_DIRECTORY": f"{place}/state"}
    return {**os.environ, **places, "PATH": path, "NO_COLOR": "1"}


@contextmanager
def running(line: str, environment: dict[str, str], until: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A line that goes on running in a shell of its own; `until`: wait for these words of it."""
    process = subprocess.Popen(
        shlex.split(line), env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
    )
    try:
        give_up = time.monotonic() + BOUND
        seen = b""
        while until and until.encode() not in seen:
            assert process.stdout is not None
            assert time.monotonic() < give_up, (line, seen)
            if select.select([process.stdout], [], [], 1)[0]:
                seen += process.stdout.read(4096)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(BOUND)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.mark.parametrize("arguments", [[], ["--local"]], ids=["device", "local"])
def test_the_demo_plays_and_proves_what_it_says(arguments: list[str], request: pytest.FixtureRequest) -> None:
    if not arguments:
        request.getfixturevalue("requires_fuse")
    done = subprocess.run(
        [sys.executable, "-m", "samples.demo", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout  # plain lines where there is no terminal
    for words in ("verdict: application", "nightly-job       vetoed", "smallest-threads  timed_out", "missing 0"):
        assert words in done.stdout, done.stdout
    assert ("a local requester takes its place" in done.stdout) is bool(arguments)
