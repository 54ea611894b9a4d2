"""Programs of one's own: the two samples, and everything that a program can do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.adapters import exec as hook
from appvss.adapters import undo
from appvss.adapters.base import Adapter, AutoRelease, Severity
from appvss.adapters.errors import AdapterError, HoldRefused, ServerUnfit, SettingInvalid
from appvss.adapters.exec.process import KEPT, Output, run
from appvss.adapters.exec.settings import Worth
from appvss.adapters.exec.talking import Talk
from appvss.adapters.exec.trust import trusted
from appvss.model.errors import HoldLost, Veto
from appvss.sdk.freeze import Freeze, Prepare
from tests.support.memory_directory import memory

__all__ = ["memory"]

SAMPLES = Path(__file__).parents[2] / "samples" / "hooks"
BOUND = 20.0
PATIENCE = 600.0
"""For a gigabyte, which is a matter of a second, and of minutes on a machine that does ten other things."""
SHORT = timedelta(milliseconds=300)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
HAS_PROC = Path("/proc/self/stat").exists()
needs_proc = pytest.mark.skipif(not HAS_PROC, reason="processes are found in /proc")


def freeze(budget: float = BOUND, cycle: str = "c-1") -> Freeze:
    return Freeze(cycle, "test", timedelta(seconds=budget), timedelta(seconds=60))


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def talker(path: Path, text: str) -> str:
    """A program in Python that answers lines: `text` is the body of a loop with `word`."""
    body = "\n".join(f"    {line}" for line in text.strip().splitlines())
    return script(
        path,
        f"#!{os.path.realpath(sys.executable)} -IS\n"
        "import json, os, signal, sys, time\n"
        "def say(line): print(line, flush=True)\n"
        f"for line in sys.stdin:\n    word = line.split()[0]\n{body}\n",
    )


WELL = """
if word == "FREEZE": say("HELD {}")
elif word in ("THAW", "ABORT"): say("RELEASED {}")
else: say("UNKNOWN")
"""


async def until(condition: object, what: str) -> None:
    """Wait for what nobody tells of."""
    deadline = time.monotonic() + BOUND
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not within {BOUND} s: {what}"
        await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def processes(home: Path) -> set[str]:
    """The names of all that run and were started by a program below `home`, or by the keeper of one."""
    found, mark = set(), f"APPVSS_HOOK={home}".encode()
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (each / "environ").read_bytes() and is_running(int(each.name)):
                found.add((each / "comm").read_text().strip())
    return found


def is_free(lock: Path) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    home = tmp_path.resolve() / "orders"
    home.mkdir()
    (home / "lock").touch()
    (home / "journal").write_text("one\ntwo\n")
    return home


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    with contextlib.closing(sqlite3.connect(path)) as session, session:
        session.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        session.executemany("INSERT INTO orders VALUES (?)", [(1,), (2,), (3,)])
    return path


# -- The samples.


async def test_the_shell_sample_keeps_writers_out_from_its_held_to_the_thaw(orders: Path) -> None:
    adapter = hook.Adapter(hook.Settings(command=(str(SAMPLES / "orders-hook.sh"), str(orders))))
    assert adapter.properties.auto_release is AutoRelease.SESSION
    found = await adapter.preflight()
    assert not found.is_refused
    assert found.version == "orders-hook 1"
    assert [each.path for each in found.volumes] == [orders]
    await adapter.prepare(Prepare("c-1", "test", timedelta(seconds=BOUND)))
    async with adapter.quiesce(freeze()) as evidence:
        assert not is_free(orders / "lock")
        assert evidence == {
            "engine": "exec",
            "version": "",
            "recipe": "program that holds",
            "position": "2",
            "marker": "c-1",
            "data_directory": str(orders),
        }
        assert (orders / "marker").read_text() == "c-1\n"
    assert is_free(orders / "lock")


async def test_the_shell_sample_says_busy_behind_a_writer(orders: Path) -> None:
    adapter = hook.Adapter(hook.Settings(command=(str(SAMPLES / "orders-hook.sh"), str(orders))))
    with (orders / "lock").open("a") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(Veto, match="a writer did not come to its end") as refused:
            await adapter.hold(freeze(5.0))
    assert refused.value.retryable
    assert is_free(orders / "lock")


async def test_the_python_sample_holds_a_lock_of_a_session(database: Path) -> None:
    def write() -> None:
        with contextlib.closing(sqlite3.connect(database, timeout=0)) as session, session:
            session.execute("INSERT INTO orders DEFAULT VALUES")

    async with hook.quiesce([str(SAMPLES / "orders_hook.py"), str(database)]) as evidence:
        assert evidence["position"] == "3"
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            write()
    write()
    with contextlib.closing(sqlite3.connect(database)) as session:
        assert session.execute("SELECT cycle FROM marker").fetchall() == [(evidence["marker"],)]


async def test_the_python_sample_tells_of_a_hold_that_was_lost(database: Path, tmp_path: Path) -> None:
    text = (SAMPLES / "orders_hook.py").read_text()
    broken = text.replace("(rows,) =", "self.session.execute('ROLLBACK'); (rows,) =")
    assert broken != text
    with pytest.raises(HoldLost, match="the transaction that held the lock has ended"):
        async with hook.quiesce([script(tmp_path / "hook", broken), str(database)]):
            pass


# -- A program that runs through the hold.


HOLDER = """
import asyncio, sys
from appvss.adapters import exec as hook

async def main():
    async with hook.quiesce(sys.argv[1:]):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@asynccontextmanager
async def holder(command: Sequence[str], **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that holds by `quiesce`, until it is killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, *command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **variables},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def held(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(BOUND):
        assert await process.stdout.readline() == b"held\n"


async def test_the_lock_is_free_when_the_adapter_was_killed_in_the_hold(orders: Path) -> None:
    async with holder([str(SAMPLES / "orders-hook.sh"), str(orders)]) as process:
        await held(process)
        assert not is_free(orders / "lock")
        process.kill()
        await until(lambda: is_free(orders / "lock"), "the lock is free")


@needs_proc
async def test_a_program_that_ignores_everything_is_ended_after_the_adapters_death(tmp_path: Path) -> None:
    deaf = talker(
        tmp_path / "deaf",
        f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
say("HELD")
while True: time.sleep(60)
""",
    )
    holding = HOLDER.replace("hook.quiesce(sys.argv[1:])", "short(sys.argv[1:])").replace(
        "async def main",
        "from datetime import timedelta\n"
        "def short(command):\n"
        "    adapter = hook.Adapter(hook.Settings(command=tuple(command), grace=timedelta(milliseconds=200)))\n"
        "    from appvss import Freeze\n"
        "    return adapter.quiesce(Freeze('c', 'test', timedelta(seconds=20), timedelta(seconds=20)))\n"
        "async def main",
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", holding, deaf), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    await held(process)
    pid = int((tmp_path / "pid").read_text())
    assert is_running(pid)
    process.kill()
    await process.wait()
    await until(lambda: not is_running(pid), "the program has ended")


async def test_a_program_that_dies_in_the_hold_makes_it_a_lost_one(tmp_path: Path) -> None:
    program = talker(
        tmp_path / "dying",
        'sys.stderr.write("out of memory\\n"); say(f"HELD {json.dumps({\'position\': os.getpid()})}")',
    )
    adapter = hook.Adapter(hook.Settings(command=(program,)))
    with pytest.raises(HoldLost, match="ended instead of answering: out of memory"):
        async with adapter.quiesce(freeze()) as evidence:
            os.kill(int(evidence["position"]), signal.SIGKILL)


async def test_a_program_may_say_that_its_hold_is_lost_before_it_is_asked(tmp_path: Path) -> None:
    program = talker(tmp_path / "honest", 'say("HELD"); say("LOST the session was closed by an administrator")')
    with pytest.raises(HoldLost, match="closed by an administrator"):
        async with hook.quiesce([program]):
            pass


async def test_a_program_that_lets_go_before_it_is_asked_has_lost_the_hold(tmp_path: Path) -> None:
    program = talker(tmp_path / "hasty", 'say("HELD\\nRELEASED {}") if word == "FREEZE" else None')
    with pytest.raises(HoldLost, match="said 'RELEASED' in the hold, before it was asked"):
        async with hook.quiesce([program]):
            pass


async def test_a_program_that_does_not_answer_the_thaw_has_lost_the_hold(tmp_path: Path) -> None:
    program = talker(tmp_path / "silent", 'say("HELD") if word == "FREEZE" else None')
    adapter = hook.Adapter(hook.Settings(command=(program,), thaw_limit=SHORT, grace=SHORT))
    with pytest.raises(HoldLost, match=r"did not answer THAW within 300\.0ms"):
        async with adapter.quiesce(freeze()):
            pass


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('say("VETO a bulk load runs")', "a bulk load runs"),
        ('say("VETO")', "the program refuses"),
        ('say("OK")', "answered FREEZE with 'OK'"),
        ('say("RELEASED {}")', "answered FREEZE with 'RELEASED {}'"),
        ('say("HELD {")', "has no JSON behind it"),
        ('say("HELD [1]")', "no object of texts and numbers"),
        ('say(\'HELD {"a": {"b": 1}}\')', "no object of texts and numbers"),
        ('say("HELD " + "[" * 9000)', "has no JSON behind it"),
        ('say("x" * 40000)', "too long"),
        ('sys.stdout.write("HELD {}"); sys.stdout.flush(); sys.exit()', "ended instead of answering"),
        (
            'sys.stderr.write("no such \\x1b[31mtable\\n"); sys.exit(3)',
            r"ended instead of answering: no such \?\[31mtable",
        ),
        ("time.sleep(60)", "did not answer FREEZE within"),
    ],
)
async def test_a_freeze_that_is_not_answered_well_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    pid = tmp_path / "pid"
    program = talker(tmp_path / "program", f'open({str(pid)!r}, "w").write(str(os.getpid()))\n{text}')
    adapter = hook.Adapter(hook.Settings(command=(program,), grace=SHORT))
    with pytest.raises((AdapterError, Veto), match=sentence):
        await adapter.hold(freeze(2.5 if "sleep" in text else BOUND))
    assert not is_running(int(pid.read_text()))


@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_gigabyte_does_no_harm(tmp_path: Path, stream: str) -> None:
    flood = f"for _ in range(1000): sys.{stream}.write('x' * 999_999 + '\\n')"
    program = talker(tmp_path / "program", f"{flood}\n{WELL.strip()}")
    adapter = hook.Adapter(hook.Settings(command=(program,), grace=SHORT))
    if stream == "stdout":
        with pytest.raises(ServerUnfit, match="too long to be an answer"):
            await adapter.hold(freeze())
    else:
        held = await adapter.hold(freeze(PATIENCE))
        assert len(held.conversation._running.errors.text()) < 3 * KEPT
        await adapter.release(held, freeze())


@needs_proc
async def test_what_a_program_has_left_behind_is_ended_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = talker(
        tmp_path / "leaving",
        f"""
if word == "FREEZE" and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({str(pid)!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
"""
        + WELL,
    )
    adapter = hook.Adapter(hook.Settings(command=(program,), grace=SHORT))
    async with adapter.quiesce(freeze()):
        await until(lambda: pid.exists() and pid.read_text(), "it has left a process behind")
        assert is_running(int(pid.read_text()))
    assert not is_running(int(pid.read_text()))


@needs_proc
async def test_a_program_whose_keeper_was_killed_is_ended_all_the_same(tmp_path: Path) -> None:
    deaf = talker(tmp_path / "deaf", 'say("HELD")\nwhile word == "FREEZE": time.sleep(60)')
    adapter = hook.Adapter(hook.Settings(command=(deaf,), grace=SHORT, thaw_limit=SHORT))
    held = await adapter.hold(freeze())
    assert isinstance(held, Talk)
    running = held.conversation._running
    os.kill(running._process.pid, signal.SIGKILL)
    with pytest.raises(HoldLost):
        await adapter.confirm(held)
    assert is_running(running.pid)
    await adapter.release(held, freeze())
    await until(lambda: not is_running(running.pid), "the program has ended")


async def test_nothing_is_said_and_no_process_made_between_held_and_thaw(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = talker(tmp_path / "program", f'open({str(log)!r}, "a").write(line)\n{WELL.strip()}')
    adapter = hook.Adapter(hook.Settings(command=(program,)))
    await adapter.prepare(Prepare("c-1", "test", timedelta(seconds=BOUND)))
    question = freeze()
    held = await adapter.hold(question)
    question.filesystem_freeze.set()
    before = (log.read_text(), _children())
    adapter.evidence(held)
    await asyncio.sleep(SHORT.total_seconds())  # as long as it is to be silent
    assert (log.read_text(), _children()) == before
    await adapter.confirm(held)
    await adapter.release(held, question)
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["PREPARE", "FREEZE", "THAW"]


def _children() -> list[str]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return path.read_text().split() if path.exists() else []


@needs_proc
async def test_a_freeze_that_is_cancelled_leaves_no_lock(orders: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "hook", (SAMPLES / "orders-hook.sh").read_text())
    adapter = hook.Adapter(hook.Settings(command=(program, str(orders)), grace=SHORT))
    with (orders / "lock").open("a") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        work = asyncio.create_task(adapter.hold(freeze()))
        await until(lambda: "flock" in processes(tmp_path), "the program waits for the lock")
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()
    assert is_free(orders / "lock")
    assert "flock" not in processes(tmp_path)


async def test_a_hold_that_ends_early_in_a_file_system_freeze_waits_for_nobody(tmp_path: Path) -> None:
    deaf = talker(tmp_path / "deaf", 'say("HELD"); time.sleep(600)')
    adapter = hook.Adapter(hook.Settings(command=(deaf,), grace=timedelta(seconds=1)))
    question = freeze()
    held = await adapter.hold(question)
    question.filesystem_freeze.set()
    await adapter.release(held, question)
    assert is_running(held.conversation._running.pid)  # whoever waits for its end finds it ended
    await adapter.close()
    assert not is_running(held.conversation._running.pid)


async def test_a_hold_that_ends_early_without_one_is_aborted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    adapter = hook.Adapter(
        hook.Settings(command=(talker(tmp_path / "p", f'open({str(log)!r}, "a").write(line)\n{WELL.strip()}'),))
    )
    question = freeze()
    await adapter.release(await adapter.hold(question), question)
    assert log.read_text().split("\n")[1] == "ABORT c-1"


async def test_a_program_that_prepared_is_the_one_that_is_frozen(tmp_path: Path) -> None:
    program = talker(
        tmp_path / "p", 'say("READY") if word == "PREPARE" else say(f"HELD {json.dumps({\'position\': os.getpid()})}")'
    )
    adapter = hook.Adapter(hook.Settings(command=(program,), grace=SHORT))
    await adapter.prepare(Prepare("c-1", "test", timedelta(seconds=BOUND)))
    assert adapter._talking._ready._thing is not None
    pid = adapter._talking._ready._thing._running.pid
    held = await adapter.hold(freeze())
    assert adapter.evidence(held)["position"] == str(pid)
    await adapter.release(held, freeze())
    assert not is_running(pid)


async def test_a_look_takes_nothing_of_what_was_prepared(tmp_path: Path) -> None:
    adapter = hook.Adapter(hook.Settings(command=(talker(tmp_path / "p", WELL),)))
    await adapter.prepare(Prepare("c-1", "test", timedelta(seconds=BOUND)))
    prepared = adapter._talking._ready._thing
    assert not (await adapter.preflight()).is_refused
    held = await adapter.hold(freeze())
    assert isinstance(held, Talk)
    assert held.conversation is prepared
    await adapter.confirm(held)
    await adapter.release(held, freeze())


@needs_proc
async def test_a_look_that_is_cut_off_twice_leaves_nothing_running(tmp_path: Path) -> None:
    deaf = talker(
        tmp_path / "deaf",
        f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
while True: time.sleep(60)
""",
    )
    adapter = hook.Adapter(hook.Settings(command=(deaf,), grace=SHORT))
    work = asyncio.create_task(adapter.preflight())
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "it is asked")
    for _ in range(2):
        work.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.wait([work])
    assert work.cancelled()
    assert not is_running(int((tmp_path / "pid").read_text()))


async def test_a_prepare_without_a_freeze_leaves_nothing_running(tmp_path: Path) -> None:
    adapter = hook.Adapter(hook.Settings(command=(talker(tmp_path / "p", WELL),)))
    await adapter.prepare(Prepare("c-1", "test", timedelta(seconds=BOUND)))
    assert adapter._talking._ready._thing is not None
    pid = adapter._talking._ready._thing._running.pid
    assert is_running(pid)
    await adapter.close()
    assert not is_running(pid)


async def test_what_was_prepared_on_another_event_loop_is_ended_there(tmp_path: Path) -> None:
    adapter = hook.Adapter(hook.Settings(command=(talker(tmp_path / "p", WELL),), grace=SHORT))
    loop = asyncio.new_event_loop()
    preparing = adapter.prepare(Prepare("c-1", "test", timedelta(seconds=BOUND)))
    await asyncio.to_thread(loop.run_until_complete, preparing)
    prepared = adapter._talking._ready._thing
    assert prepared is not None
    turning = asyncio.create_task(asyncio.to_thread(loop.run_forever))
    held = await adapter.hold(freeze())
    assert isinstance(held, Talk)
    assert held.conversation is not prepared
    await until(lambda: not is_running(prepared._running.pid), "it was ended")
    await until(lambda: not adapter._talking._ending, "it was waited for")
    await adapter.confirm(held)
    await adapter.release(held, freeze())
    loop.call_soon_threadsafe(loop.stop)
    await turning
    loop.close()


CLOSED = """
import asyncio, sys
from datetime import timedelta
from appvss.adapters import exec as hook
from appvss.sdk.freeze import Freeze, Prepare
adapter = hook.Adapter(hook.Settings(command=(sys.argv[1],), grace=timedelta(milliseconds=100)))
asyncio.run(adapter.prepare(Prepare("c-1", "test", timedelta(seconds=60))))
print(adapter._talking._ready._thing._running.pid, flush=True)
async def hold():
    held = await adapter.hold(Freeze("c-1", "test", timedelta(seconds=60), timedelta(seconds=60)))
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(hold())
"""


async def test_what_was_prepared_on_an_event_loop_that_is_closed_is_ended(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLOSED, talker(tmp_path / "p", WELL)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        prepared = int(await process.stdout.readline())
        await held(process)
        await until(lambda: not is_running(prepared), "it was ended")
        assert process.returncode is None
    finally:
        process.kill()
        await process.wait()


async def test_a_prepare_may_be_refused(tmp_path: Path) -> None:
    adapter = hook.Adapter(hook.Settings(command=(talker(tmp_path / "p", 'say("BUSY a dump runs")'),)))
    with pytest.raises(Veto, match="a dump runs") as refused:
        await adapter.prepare(Prepare("c-1", "test", timedelta(seconds=BOUND)))
    assert refused.value.retryable


async def test_a_preflight_says_what_the_program_says(tmp_path: Path) -> None:
    told = ["WARNING replication lags", "VOLUME data relative", "PROBLEM the disk is full", "READY"]
    program = talker(tmp_path / "p", f'say("\\n".join({told!r}))')
    found = await hook.Adapter(hook.Settings(command=(program,), volumes=("/srv",))).preflight()
    assert [(each.severity, each.sentence) for each in found.findings] == [
        (Severity.WARNING, "replication lags"),
        (Severity.WARNING, "the program names a volume that is none: 'data relative'"),
        (Severity.PROBLEM, "the disk is full"),
    ]
    assert [str(each.path) for each in found.volumes] == ["/srv"]
    endless = talker(tmp_path / "e", 'while True: say("WARNING x")')
    found = await hook.Adapter(hook.Settings(command=(endless,), grace=SHORT)).preflight()
    assert "does not come to an end" in found.findings[0].sentence
    missing = await hook.Adapter(hook.Settings(command=(str(tmp_path / "missing"),))).preflight()
    assert missing.is_refused


# -- Two commands.


def pair(tmp_path: Path, memory: Path, freezing: str = "", thawing: str = "", **more: object) -> hook.Adapter:
    """Commands that make and remove the file `held`, and what else is given."""
    home = str(tmp_path)
    settings = hook.Settings(
        freeze=(script(tmp_path / "freeze", f"#!/bin/sh\necho freeze >>{home}/log\ntouch {home}/held\n{freezing}\n"),),
        thaw=(script(tmp_path / "thaw", f"#!/bin/sh\necho $APPVSS_STEP >>{home}/log\nrm -f {home}/held\n{thawing}\n"),),
        **{"grace": SHORT, **more},  # type: ignore[arg-type]
    )
    adapter = hook.Adapter(settings)
    adapter.app = "orders"
    adapter.undo_directory = memory
    return adapter


def log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().split() if (tmp_path / "log").exists() else []


async def test_a_pair_holds_from_the_one_command_to_the_other(tmp_path: Path, memory: Path) -> None:
    adapter = pair(tmp_path, memory, 'echo for people; echo "{\\"position\\": 7}"')
    assert adapter.properties.auto_release is AutoRelease.NOBODY
    found = await adapter.preflight()
    assert [(each.severity, each.name) for each in found.findings] == [(Severity.WARNING, "cannot_hold_a_session")]
    async with adapter.quiesce(freeze()) as evidence:
        assert (tmp_path / "held").exists()
        assert evidence["position"] == "7"
        (record,) = undo.pending(memory)
        assert record.record is not None
        assert str(tmp_path) not in json.dumps(dict(record.record.what))  # no command is in it
    assert not (tmp_path / "held").exists()
    assert log(tmp_path) == ["freeze", "thaw"]
    assert undo.pending(memory) == ()


@pytest.mark.parametrize(
    ("freezing", "sentence"),
    [
        ("echo 'no such table' >&2; exit 4", "ended with code 4: no such table"),
        ("kill -9 $$", "was ended by signal 9"),
        ("sleep 600", "did not end within"),
        ("trap '' TERM; sleep 600 & wait; sleep 600", "did not end within"),
        ("setsid sleep 600 >/dev/null 2>&1 </dev/null &", "left (sleep|setsid|freeze)"),
        ("setsid sleep 600 &", "left (sleep|setsid|freeze)"),  # it has the pipes still
    ],
)
async def test_a_freeze_that_fails_is_thawed_and_nothing_runs_on(
    tmp_path: Path, memory: Path, freezing: str, sentence: str
) -> None:
    adapter = pair(tmp_path, memory, f"echo $$ >{tmp_path}/pid\n{freezing}")
    with pytest.raises(HoldRefused, match=sentence):
        await adapter.hold(freeze(3.0 if "did not" in sentence else BOUND))
    assert log(tmp_path) == ["freeze", "thaw"]
    assert not (tmp_path / "held").exists()
    assert undo.pending(memory) == ()
    assert processes(tmp_path) == set()


async def test_a_freeze_that_is_cancelled_is_thawed(tmp_path: Path, memory: Path) -> None:
    adapter = pair(tmp_path, memory, "sleep 600")
    work = asyncio.create_task(adapter.hold(freeze()))
    await until((tmp_path / "held").exists, "it freezes")
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()
    assert not (tmp_path / "held").exists()
    assert undo.pending(memory) == ()


@needs_proc
async def test_a_freeze_that_is_cancelled_as_it_starts_does_not_run_on(tmp_path: Path, memory: Path) -> None:
    adapter = pair(tmp_path, memory, f"echo $$ >{tmp_path}/pid\nsleep 600\ntouch {tmp_path}/held")
    work = asyncio.create_task(adapter.hold(freeze()))
    deadline = time.monotonic() + BOUND
    while not processes(tmp_path):  # its keeper has been made, and the loop has not yet heard of it
        assert time.monotonic() < deadline, "it was not started"
        await asyncio.sleep(0)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline, "it does not run"
        time.sleep(0.01)  # noqa: ASYNC251 - a loop that is busy is what this is about
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()
    assert not is_running(int((tmp_path / "pid").read_text()))
    assert processes(tmp_path) == set()
    assert log(tmp_path) == ["freeze", "thaw"]
    assert not (tmp_path / "held").exists()
    assert undo.pending(memory) == ()


@pytest.mark.timeout(PATIENCE + 60)
async def test_a_pair_that_prints_a_gigabyte_is_read_and_cut(tmp_path: Path) -> None:
    flood = script(tmp_path / "flood", "#!/bin/sh\necho first\nhead -c 1000000000 /dev/zero\necho\necho last\n")
    done = await run((flood,), {"PATH": "/usr/bin:/bin"}, timedelta(seconds=PATIENCE), grace=SHORT)
    assert done.failure("freeze", SHORT) == ""
    assert done.output.length == 1_000_000_012
    assert done.output.text().startswith("first\n")
    assert done.output.last_line() == "last"
    assert done.output.cut == done.output.length - 2 * KEPT


def test_output_keeps_both_ends_however_it_comes() -> None:
    text = b"".join(b"%05d\n" % number for number in range(5000))
    for size in (1, 7, 4096, 10_000, len(text)):
        output = Output()
        for index in range(0, len(text), size):
            output.add(text[index : index + size])
        assert (output.length, output.cut) == (len(text), len(text) - 2 * KEPT)
        assert output.text().startswith("00000\n00001\n")
        assert output.last_line() == "04999"
    assert Output().in_brief() == ""


async def test_a_thaw_that_fails_runs_again_and_the_hold_does_not_count(tmp_path: Path, memory: Path) -> None:
    adapter = pair(tmp_path, memory, thawing=f"test -e {tmp_path}/mended")
    with pytest.raises(HoldLost, match="the thaw command ended with code 1"):
        async with adapter.quiesce(freeze()):
            pass
    assert [each.state for each in undo.pending(memory)] == [undo.PendingState.DUE]
    assert [each.get_name() for each in asyncio.all_tasks()].count("undo") == 1
    with pytest.raises(HoldRefused, match="is not undone"):
        await adapter.hold(freeze())
    assert log(tmp_path).count("freeze") == 1
    (tmp_path / "mended").touch()
    await until(lambda: undo.pending(memory) == (), "it was undone by itself")
    async with adapter.quiesce(freeze()):
        pass


async def test_a_thaw_may_say_that_the_hold_was_lost(tmp_path: Path, memory: Path) -> None:
    adapter = pair(tmp_path, memory, thawing="echo 'the flag had been removed' >&2; exit 3")
    with pytest.raises(HoldLost, match="was lost: the flag had been removed"):
        async with adapter.quiesce(freeze()):
            pass
    assert undo.pending(memory) == ()


async def test_a_thaw_that_hangs_is_ended_and_the_hold_does_not_count(tmp_path: Path, memory: Path) -> None:
    adapter = pair(tmp_path, memory, thawing=f"test -e {tmp_path}/mended || sleep 600", thaw_limit=timedelta(seconds=1))
    with pytest.raises(HoldLost, match=r"did not end within 1\.0s"):
        async with adapter.quiesce(freeze()):
            pass
    (tmp_path / "mended").touch()
    await until(lambda: undo.pending(memory) == (), "it was undone by itself")


async def test_a_hold_that_ends_early_in_a_file_system_freeze_is_thawed_later(tmp_path: Path, memory: Path) -> None:
    adapter = pair(tmp_path, memory)
    question = freeze()
    held = await adapter.hold(question)
    question.filesystem_freeze.set()
    await adapter.release(held, question)
    assert log(tmp_path) == ["freeze"]  # whoever waits for the thaw finds it done
    assert (tmp_path / "held").exists()
    await until(lambda: undo.pending(memory) == (), "it was undone by itself")
    assert log(tmp_path) == ["freeze", "undo"]
    assert not (tmp_path / "held").exists()


PAIR = """
import asyncio, sys
from appvss.adapters import exec as hook
async def main():
    async with hook.quiesce(sys.argv[1:2], sys.argv[2:]):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["hold", "freeze"])
async def test_a_pair_whose_adapter_was_killed_is_undone_by_another(tmp_path: Path, memory: Path, moment: str) -> None:
    adapter = pair(tmp_path, memory, f"echo $$ >{tmp_path}/pid\n{'sleep 600' if moment == 'freeze' else ''}")
    adapter.app = ""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PAIR, str(tmp_path / "freeze"), str(tmp_path / "thaw")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, undo.VARIABLE: str(memory)},
    )
    if moment == "hold":
        await held(process)
    else:
        await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "it freezes")
    process.kill()
    await process.wait()
    assert (tmp_path / "held").exists()

    async def is_settled() -> bool:  # who freezes still may not be thawed: then it is claimed
        return all(each.is_undone for each in await undo.settle(memory, {"exec": adapter}))

    async with asyncio.timeout(BOUND):
        while not await is_settled():  # noqa: ASYNC110 - another process's end
            await asyncio.sleep(0.02)
    assert not (tmp_path / "held").exists()
    assert log(tmp_path) == ["freeze", "undo"]
    assert not is_running(int((tmp_path / "pid").read_text()))


async def test_a_thaw_that_takes_longer_than_other_undos_may_lets_go_of_what_was_left(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adapter, "undo_limit", timedelta(milliseconds=1))
    adapter = pair(tmp_path, memory, thawing="sleep 0.2", thaw_limit=timedelta(seconds=BOUND))
    (await adapter.hold(freeze())).written.leave()
    (settled,) = await undo.settle(memory, {"orders": adapter})
    assert settled.is_undone, settled
    (await adapter.hold(freeze())).written.leave()
    await undo.settle_own(adapter, memory)
    assert undo.pending(memory) == ()


async def test_another_thaw_than_the_one_of_the_record_is_not_run(tmp_path: Path, memory: Path) -> None:
    adapter = pair(tmp_path, memory)
    (await adapter.hold(freeze())).written.leave()
    other = hook.Adapter(hook.Settings(freeze=("/bin/true",), thaw=("/bin/false",)))
    (settled,) = await undo.settle(memory, {"orders": other})
    assert "is configured for it" in settled.failure
    assert (tmp_path / "held").exists()
    (settled,) = await undo.settle(memory, {"orders": adapter})
    assert settled.is_undone


async def test_a_program_finds_little_around_it(tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    leaked = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    with contextlib.closing(os.fdopen(leaked)):
        look = (
            f"{{ env; echo cwd=$(pwd); echo umask=$(umask); ls -l /proc/$$/fd; }} >{tmp_path}/around\n"
            f"cat >>{tmp_path}/around"
        )
        adapter = pair(tmp_path, memory, look, environment=("MODE=nightly run",))
        async with adapter.quiesce(freeze()):
            pass
    lines = (tmp_path / "around").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    times = {name: float(found.pop(name)) for name in ("APPVSS_BUDGET", "APPVSS_HOLD_LIMIT")}
    assert 10 < times["APPVSS_BUDGET"] < BOUND
    assert times["APPVSS_HOLD_LIMIT"] == 60
    for name in ("PWD", "OLDPWD", "SHLVL", "_"):  # the shell's own
        found.pop(name, None)
    assert found == {
        "APPVSS_APP": "orders",
        "APPVSS_CYCLE": "c-1",
        "APPVSS_HOOK": str(tmp_path / "freeze"),
        "APPVSS_STEP": "freeze",
        "LANG": "C.UTF-8",
        "MODE": "nightly run",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "cwd": "/",
        "umask": "0077",
    }
    if HAS_PROC:
        opened = {line.split(" -> ")[1] for line in lines if " -> " in line}
        known = {str(tmp_path / "freeze"), "/dev/null", str(tmp_path / "around")}
        assert {each for each in opened if not each.startswith("pipe:")} <= known


# -- What may be run.


async def test_arguments_are_given_as_they_are(tmp_path: Path) -> None:
    echo = script(tmp_path / "echo", '#!/bin/sh\nfor each; do echo "<$each>"; done\n')
    words = ("a b", "$(touch /tmp/x)", "", "*", "; rm -rf /", "\n")
    done = await run((echo, *words), {"PATH": "/usr/bin:/bin"}, timedelta(seconds=BOUND), grace=SHORT)
    assert done.output.text() == "".join(f"<{each}>\n" for each in words)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
async def test_a_program_that_others_may_write_is_not_run(tmp_path: Path, memory: Path, mode: int) -> None:
    adapter = pair(tmp_path, memory)
    (tmp_path / "freeze").chmod(mode)
    assert (await adapter.preflight()).is_refused
    with pytest.raises(SettingInvalid, match=f"has mode 0{mode:o}"):
        await adapter.hold(freeze())
    assert "freeze" not in log(tmp_path)


async def test_it_is_looked_at_again_before_each_run(tmp_path: Path, memory: Path) -> None:
    adapter = pair(tmp_path, memory)
    held = await adapter.hold(freeze())
    (tmp_path / "thaw").chmod(0o777)
    with pytest.raises(HoldLost, match="has mode 0777"):
        await adapter.confirm(held)
    assert log(tmp_path) == ["freeze"]
    (tmp_path / "thaw").chmod(0o755)
    await until(lambda: undo.pending(memory) == (), "it was undone by itself")


def _refusal(command: Sequence[str]) -> str:
    with pytest.raises(SettingInvalid) as refused, trusted(command):
        pass
    return refused.value.sentence


def test_a_folder_on_the_way_that_others_may_write_is_found(tmp_path: Path) -> None:
    (tmp_path / "open" / "inner").mkdir(parents=True)
    program = script(tmp_path / "open" / "inner" / "program", "#!/bin/sh\n")
    with trusted((program,)):
        pass
    (tmp_path / "open").chmod(0o777)
    assert f"{tmp_path}/open has mode 0777" in _refusal((program,))
    (tmp_path / "link").symlink_to(program)
    assert f"{tmp_path}/open has mode 0777" in _refusal((str(tmp_path / "link"),))
    (tmp_path / "open").chmod(0o1777)  # nobody can put another file in the place of ours
    with trusted((program,)):
        pass


def test_a_link_that_others_may_replace_is_found(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to(script(tmp_path / "program", "#!/bin/sh\n"))
    (tmp_path / "open").chmod(0o777)
    assert f"{tmp_path}/open has mode 0777" in _refusal((str(tmp_path / "open" / "link"),))


@needs_root
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_belongs_to_another_user_is_found(tmp_path: Path, what: str) -> None:
    (tmp_path / "folder").mkdir()
    program = script(tmp_path / "folder" / "file", "#!/bin/sh\n")
    (tmp_path / "folder" / "link").symlink_to("file")
    path = tmp_path / "folder" if what == "folder" else tmp_path / "folder" / what
    os.chown(path, 65534, 65534, follow_symlinks=False)
    asked = str(tmp_path / "folder" / "link") if what == "link" else program
    assert f"{path} belongs to user 65534" in _refusal((asked,))


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    for path, word in (
        ("program", "absolute"),
        (str(tmp_path / "missing"), "No such file"),
        (str(plain), "not executable"),
        (str(tmp_path), "is a folder"),
        (str(plain / "below"), "cannot be opened"),
        (str(tmp_path / "loop"), "too many symbolic links"),
        (str(tmp_path / "fifo"), "no plain file"),
    ):
        assert word in _refusal((path,))


def test_what_a_shell_is_given_to_run_is_looked_at_too(tmp_path: Path) -> None:
    program = Path(script(tmp_path / "program.sh", "#!/bin/sh\n"))
    program.chmod(0o666)
    for runner in ("/bin/sh", "/usr/bin/env"):
        assert "has mode 0666" in _refusal((runner, str(program)))
    with trusted(("/bin/cat", str(program))):  # it only reads it
        pass
    with pytest.raises(SettingInvalid, match="has mode 0666"), trusted(("/bin/sh", str(program).lstrip("/"))):
        pass  # it is started in /
    (tmp_path / "sh").symlink_to(script(tmp_path / "toolbox", "#!/bin/cat\n"))
    assert "has mode 0666" in _refusal((str(tmp_path / "sh"), str(program)))
    (tmp_path / "tool").symlink_to("/bin/sh")
    assert "has mode 0666" in _refusal((script(tmp_path / "linked", f"#!{tmp_path}/tool {program}\n"),))
    assert "is a folder" in _refusal((script(tmp_path / "broken", "#!/bin/\0sh\n"),))
    open_interpreter = Path(script(tmp_path / "interpreter", "#!/bin/sh\n"))
    script(tmp_path / "scripted", f"#!{open_interpreter}\n")
    open_interpreter.chmod(0o777)
    assert "the interpreter" in _refusal((str(tmp_path / "scripted"),))


async def test_what_was_checked_is_what_runs(tmp_path: Path) -> None:
    program = script(tmp_path / "program", "#!/bin/sh\necho checked\n")
    with trusted((program,)) as found:
        script(tmp_path / "other", "#!/bin/sh\necho swapped\n")
        (tmp_path / "other").rename(program)
        assert os.pread(found.descriptor, 100, 0).endswith(b"echo checked\n")
        if HAS_PROC:
            ran = await asyncio.create_subprocess_exec(
                f"/proc/self/fd/{found.descriptor}", stdout=subprocess.PIPE, pass_fds=(found.descriptor,)
            )
            assert (await ran.communicate())[0] == b"checked\n"


async def test_a_program_that_the_kernel_refuses_is_told_so(tmp_path: Path) -> None:
    adapter = hook.Adapter(hook.Settings(command=(script(tmp_path / "text", "no program\n"),)))
    with pytest.raises(ServerUnfit, match="cannot be executed: Exec format error"):
        await adapter.hold(freeze())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"command": ("/bin/true",), "freeze": ("/bin/true",), "thaw": ("/bin/true",)},
        {"freeze": ("/bin/true",)},
        {"thaw": ("/bin/true",)},
        {"prepare": ("/bin/true",)},
        {"command": ("/bin/true",), "environment": ("PASSWORD",)},
        {"command": ("/bin/true\0",)},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: Mapping[str, tuple[str, ...]]) -> None:
    with pytest.raises(SettingInvalid):
        hook.Adapter(hook.Settings(**settings))


def test_worth_is_what_the_administrator_says() -> None:
    assert hook.Adapter(hook.Settings(command=("/bin/true",), worth=Worth.FS)).properties.grade == "fs"
    assert hook.Adapter.properties.grade == "app"
