"""Every code block of docs/sdk.md runs, and does what the text around it says."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import appvss
from appvss.sdk.testing import BlockingFakeBroker, FakeApp, FakeBroker

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sdk.md").read_text()
BOUND = 10.0


@dataclass(frozen=True)
class Example:
    line: int
    kind: str
    expected: str
    code: str


def examples() -> list[Example]:
    found = []
    for block in re.finditer(r"(?:<!-- example: ([\w ]+?)(?:: ([^>]*?))? -->\n)?```python\n(.*?)```", PAGE, re.DOTALL):
        line = PAGE.count("\n", 0, block.start()) + 1
        assert block[1], f"docs/sdk.md:{line}: the code block does not say how it is run"
        found.append(Example(line, block[1], block[2] or "", block[3]))
    return found


def of_kind(*kinds: str) -> Callable[[Any], Any]:
    chosen = [each for each in examples() if each.kind in kinds]
    assert chosen, kinds
    return pytest.mark.parametrize("example", chosen, ids=lambda each: f"line {each.line}")


class Database:
    """What the page calls `database`: it can be made quiet, and says whether it is."""

    def __init__(self) -> None:
        self._quiet = False
        self._session = 1
        self.checkpoints = 0
        self._closed = False

    @asynccontextmanager
    async def write_lock(self) -> AsyncIterator[None]:
        await self.stop_writing()
        try:
            yield
        finally:
            await self.go_on()

    async def stop_writing(self) -> None:
        self._quiet = True

    async def go_on(self) -> None:
        self._quiet = False

    def close(self) -> None:
        self._closed = True

    def is_closed(self) -> bool:
        return self._closed

    async def flush(self) -> None:
        assert self._quiet

    async def checkpoint(self) -> None:
        assert not self._quiet
        self.checkpoints += 1

    def is_quiet(self) -> bool:
        return self._quiet

    def is_loading(self) -> bool:
        return True

    def position(self) -> int:
        return 4711

    def session(self) -> int:
        self._session += 1
        return self._session


def run(example: Example, **given: object) -> dict[str, Any]:
    namespace: dict[str, Any] = dict(given)
    # Compiled under the page's own name and line, so that a failure points there.
    exec(compile("\n" * example.line + example.code, "docs/sdk.md", "exec"), namespace)
    return namespace


@asynccontextmanager
async def serving(broker: FakeBroker, namespace: dict[str, Any]) -> AsyncIterator[FakeApp]:
    served = appvss.serve(
        "orders-db",
        namespace["quiesce"],
        prepare=namespace.get("prepare"),
        runtime_directory=broker.runtime_directory,
    )
    task = asyncio.create_task(served)
    yield await broker.app("orders-db")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_programs_on_an_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    mains = [each for each in examples() if each.kind == "asyncio main"]
    assert len(mains) == 2
    for example in mains:
        async with FakeBroker() as broker:
            monkeypatch.setenv("APPVSS_RUNTIME_DIRECTORY", str(broker.runtime_directory))
            namespace = run(example, database=Database())
            task = asyncio.create_task(namespace["main"]())
            app = await broker.app("orders-db")
            assert (await app.freeze()).frozen
            assert namespace["database"].is_quiet() or namespace["writing"].locked()
            assert (await app.thaw()).unbroken
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@of_kind("asyncio serve")
async def test_what_is_served_holds(example: Example) -> None:
    database = Database()
    namespace = run(example, database=database)
    async with FakeBroker() as broker, serving(broker, namespace) as app:
        if "prepare" in namespace:
            assert (await app.prepare()).ready
            assert database.checkpoints == 1
        frozen = await app.freeze()
        assert frozen.frozen, frozen.reason
        assert database.is_quiet()
        assert set(frozen.evidence) == set(example.expected.split())
        assert (await app.thaw()).unbroken
        assert not database.is_quiet()


@of_kind("asyncio vetoed")
async def test_what_refuses_vetoes_with_the_reason(example: Example) -> None:
    async with FakeBroker() as broker, serving(broker, run(example, database=Database())) as app:
        frozen = await app.freeze()
        assert (frozen.frozen, frozen.reason, frozen.retryable) == (False, example.expected, True)


@of_kind("asyncio hold limit")
async def test_the_hold_limit_lets_go(example: Example) -> None:
    database = Database()
    async with FakeBroker() as broker, serving(broker, run(example, database=database)) as app:
        assert (await app.freeze(hold_limit=timedelta(milliseconds=50))).frozen
        assert "hold limit" in await app.hold_lost()
        assert not (await app.thaw()).unbroken
        assert not database.is_quiet()


@of_kind("asyncio silent")
@pytest.mark.parametrize("is_told", [False, True])
async def test_a_hold_that_ends_early_asks_nobody_when_the_file_systems_may_be_frozen(
    example: Example, is_told: bool
) -> None:
    database = Database()
    async with FakeBroker() as broker, serving(broker, run(example, database=database)) as app:
        assert (await app.freeze(hold_limit=timedelta(seconds=1))).frozen
        if is_told:
            await app.tell_filesystem_freeze()
        assert "hold limit" in await app.hold_lost()
        assert not (await app.thaw()).unbroken
        assert (database.is_closed(), database.is_quiet()) == (is_told, is_told)
        if not is_told:
            assert (await app.freeze()).frozen
            assert (await app.thaw()).unbroken


@of_kind("asyncio hold lost")
async def test_a_lost_hold_is_told(example: Example) -> None:
    async with FakeBroker() as broker, serving(broker, run(example, database=Database())) as app:
        assert (await app.freeze()).frozen
        thawed = await app.thaw()
        assert (thawed.unbroken, thawed.reason) == (False, example.expected)


@of_kind("asyncio test")
async def test_the_tests_on_an_event_loop_pass(example: Example) -> None:
    database = Database()

    @asynccontextmanager
    async def quiesce(_: appvss.Freeze) -> AsyncIterator[None]:
        async with database.write_lock():
            yield

    namespace = run(example, database=database, quiesce=quiesce)
    tests = [test for name, test in namespace.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        assert inspect.iscoroutinefunction(test)
        before = asyncio.all_tasks()
        await test()
        # The page leaves what it cancelled to the end of its event loop; here the loop goes on.
        left = asyncio.all_tasks() - before
        await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), BOUND)  # noqa: TID251 - not a lifetime


class Table:
    def flush(self) -> None:
        pass


@of_kind("threads main")
def test_the_program_with_threads(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, done = threading.Lock(), threading.Event()
    with BlockingFakeBroker() as broker:
        monkeypatch.setenv("APPVSS_RUNTIME_DIRECTORY", str(broker.runtime_directory))
        namespace = run(example, lock=lock, tables=[Table(), Table()], work=lambda: done.wait(BOUND))
        thread = threading.Thread(target=namespace["main"])
        thread.start()
        app = broker.app("orders-db")
        frozen = app.freeze()
        assert frozen.evidence == {"tables": "2"}
        assert lock.locked()
        assert app.thaw().unbroken
        done.set()
        thread.join(BOUND)
        app.gone()


@of_kind("threads test")
def test_the_tests_with_threads_pass(example: Example) -> None:
    lock = threading.Lock()
    namespace = run(example, quiesce=lambda _: lock)
    tests = [test for name, test in namespace.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()
    assert not lock.locked()


@of_kind("program")
def test_the_program_that_forks(example: Example, tmp_path: Path) -> None:
    prelude = "import sys, threading\nquiesce = lambda freeze: threading.Lock()\nwork = sys.stdin.readline\n"
    script = tmp_path / "program.py"
    script.write_text(prelude + example.code)
    with BlockingFakeBroker() as broker:
        environment = {"APPVSS_RUNTIME_DIRECTORY": str(broker.runtime_directory), "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [sys.executable, str(script)], env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE
        ) as program:
            try:
                app = broker.app("orders-db", "worker-1")
                assert app.peer is None or app.peer.pid != program.pid
                assert app.freeze().frozen
                assert app.thaw().unbroken
                _, err = program.communicate(b"\n", timeout=BOUND)
            finally:
                program.kill()
        assert (program.returncode, err) == (0, b"")


def test_every_example_is_run() -> None:
    run_here = {
        "asyncio main",
        "asyncio serve",
        "asyncio vetoed",
        "asyncio hold limit",
        "asyncio hold lost",
        "asyncio silent",
        "asyncio test",
        "threads main",
        "threads test",
        "program",
    }
    assert {each.kind for each in examples()} == run_here


def test_every_argument_is_in_the_table() -> None:
    section = PAGE.split("## What you can declare")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    declared = list(inspect.signature(appvss.serve).parameters)
    assert listed == [each for each in declared if each not in {"name", "quiesce"}]
