"""The freezer of cgroups, on cgroups of the tests' own in the tree of this machine, with their own processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from appvss.adapters import cgroup, undo
from appvss.adapters.base import AutoRelease, Severity
from appvss.adapters.cgroup import tree
from appvss.adapters.errors import AdapterError, HoldRefused, ServerUnfit, SettingInvalid
from appvss.model.errors import HoldLost
from appvss.sdk.freeze import Freeze
from tests.support.loop_disks import LoopDisks, loop_disks, why_not
from tests.support.memory_directory import memory

__all__ = ["loop_disks", "memory"]

BOUND = 20.0
SHORT = timedelta(milliseconds=300)


class Tree:
    """One cgroup, and the processes that a test puts into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[subprocess.Popen[str]] = []

    @property
    def name(self) -> str:
        return f"/{self.path.name}"

    @property
    def is_frozen(self) -> bool:
        return "frozen 1" in (self.path / "cgroup.events").read_text()

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A process that was in it before it ran its program."""
        enter = 'echo 0 >"$0" && exec "$@"'
        process = subprocess.Popen(
            ("/bin/sh", "-c", enter, str(self.path / "cgroup.procs"), *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        deadline = time.monotonic() + BOUND
        while Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")[0] != command[0]:
            assert time.monotonic() < deadline, f"{command} was not started"
            time.sleep(0.001)
        return process

    def write_to(self, file: Path) -> subprocess.Popen[str]:
        """A process that adds to a file all the time."""
        file.touch()
        code = "import sys, time\nf = open(sys.argv[1], 'ab', 0)\nwhile True: f.write(b'x'); time.sleep(.001)"
        return self.start(sys.executable, "-IS", "-c", code, str(file))

    def close(self) -> None:
        for folder in [*self.path.glob("*/"), self.path]:
            with contextlib.suppress(OSError):
                (folder / "cgroup.freeze").write_text("0")
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.communicate(timeout=BOUND)
        deadline = time.monotonic() + BOUND
        for folder in [*self.path.glob("*/"), self.path]:
            while folder.exists():
                assert time.monotonic() < deadline, f"{folder} is still populated"
                with contextlib.suppress(OSError):
                    folder.rmdir()
                time.sleep(0.005)


@pytest.fixture
def group() -> Iterator[Tree]:
    try:
        path = tree.mount() / f"appvss-test-{uuid4().hex[:8]}"
        path.mkdir()
    except (ServerUnfit, OSError) as error:
        pytest.skip(f"no cgroup of version 2 can be made here: {error}")
    made = Tree(path)
    try:
        yield made
    finally:
        made.close()


def freeze(budget: float = BOUND) -> Freeze:
    return Freeze("c-1", "test", timedelta(seconds=budget), timedelta(seconds=60))


def adapter_of(group: Tree, memory: Path) -> cgroup.Adapter:
    adapter = cgroup.Adapter(cgroup.Settings(cgroup=group.name, volumes=("/srv",)))
    adapter.undo_directory = memory
    return adapter


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what nobody tells of."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, f"not within {BOUND} s: {what}"
        await asyncio.sleep(0.002)


def size_of(file: Path) -> int:
    return file.stat().st_size


async def grows(file: Path) -> None:
    before = size_of(file)
    await until(lambda: size_of(file) > before, "it is written to")


async def hold_through(adapter: cgroup.Adapter, meddle: Callable[[], Awaitable[None]]) -> None:
    """A whole hold, in which somebody meddles."""
    async with adapter.quiesce(freeze()):
        await meddle()


async def test_a_service_stands_still_in_the_hold_and_goes_on_after_it(
    group: Tree, memory: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    group.write_to(file)
    await grows(file)
    adapter = adapter_of(group, memory)
    assert adapter.properties.auto_release is AutoRelease.NOBODY
    assert adapter.properties.grade == "fs"
    found = await adapter.preflight()
    assert [(each.severity, each.name) for each in found.findings] == [(Severity.WARNING, "flushes_nothing")]
    async with adapter.quiesce(freeze()) as evidence:
        assert group.is_frozen
        size = file.stat().st_size
        (record,) = undo.pending(memory)
        assert record.record is not None
        assert record.record.what["cgroup"] == group.name
        await asyncio.sleep(SHORT.total_seconds())  # as long as it is to stand still
        assert file.stat().st_size == size
        assert evidence["cgroup"] == group.name
        assert evidence["processes"] == "1"
        assert (evidence["position"], evidence["marker"]) == ("", "")
    assert not group.is_frozen
    await grows(file)
    assert undo.pending(memory) == ()


async def test_cgroups_below_it_stand_still_too(group: Tree, memory: Path, tmp_path: Path) -> None:
    (group.path / "inner").mkdir()
    file = tmp_path / "file"
    process = group.write_to(file)
    (group.path / "inner" / "cgroup.procs").write_text(str(process.pid))
    await grows(file)
    async with adapter_of(group, memory).quiesce(freeze()) as evidence:
        assert evidence["processes"] == "1"
        size = file.stat().st_size
        await asyncio.sleep(SHORT.total_seconds())
        assert file.stat().st_size == size
    await grows(file)


QUIESCE = """
import asyncio, sys
from appvss.adapters import cgroup
async def main():
    async with cgroup.quiesce(cgroup=sys.argv[1]):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


async def test_a_killed_adapter_leaves_it_frozen_and_another_thaws_it(
    group: Tree, memory: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    group.write_to(file)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", QUIESCE, group.name),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, undo.VARIABLE: str(memory)},
    )
    assert process.stdout is not None
    async with asyncio.timeout(BOUND):
        assert await process.stdout.readline() == b"held\n"
    process.kill()
    await process.wait()
    assert group.is_frozen  # the kernel does not free it
    (settled,) = await undo.settle(memory, {"cgroup": cgroup.Adapter(cgroup.Settings(cgroup=group.name))})
    assert settled.is_undone
    await grows(file)
    assert undo.pending(memory) == ()


async def test_the_next_hold_undoes_what_the_last_one_left(group: Tree, memory: Path, tmp_path: Path) -> None:
    group.write_to(tmp_path / "file")
    adapter = adapter_of(group, memory)
    held = await adapter.hold(freeze())
    held.written.leave()
    held.opened.close()
    assert group.is_frozen
    async with adapter.quiesce(freeze()):
        assert group.is_frozen
    assert not group.is_frozen


async def test_what_somebody_else_has_frozen_is_refused_and_left_so(group: Tree, memory: Path, tmp_path: Path) -> None:
    group.write_to(tmp_path / "file")
    (group.path / "cgroup.freeze").write_text("1")
    await until(lambda: group.is_frozen, "it is frozen")
    adapter = adapter_of(group, memory)
    assert (await adapter.preflight()).is_refused
    with pytest.raises(HoldRefused, match="is frozen already"):
        await adapter.hold(freeze())
    assert group.is_frozen
    assert undo.pending(memory) == ()


async def test_a_thaw_by_somebody_else_makes_it_a_lost_hold(group: Tree, memory: Path, tmp_path: Path) -> None:
    group.write_to(tmp_path / "file")

    async def meddle() -> None:
        (group.path / "cgroup.freeze").write_text("0")
        await until(lambda: not group.is_frozen, "it is thawed")

    with pytest.raises(HoldLost, match="was thawed by somebody else"):
        await hold_through(adapter_of(group, memory), meddle)


async def test_a_thaw_for_a_moment_does_too(group: Tree, memory: Path, tmp_path: Path) -> None:
    group.write_to(tmp_path / "file")

    async def meddle() -> None:
        await asyncio.sleep(2 * tree._NOTICE.total_seconds())  # sooner, the kernel may not tell of it
        (group.path / "cgroup.freeze").write_text("0")
        await until(lambda: not group.is_frozen, "it is thawed")
        (group.path / "cgroup.freeze").write_text("1")
        await until(lambda: group.is_frozen, "it is frozen again")

    with pytest.raises(HoldLost, match="did not stand still all the time"):
        await hold_through(adapter_of(group, memory), meddle)


async def test_a_service_that_was_killed_in_the_hold_makes_it_a_lost_one(
    group: Tree, memory: Path, tmp_path: Path
) -> None:
    process = group.write_to(tmp_path / "file")

    async def meddle() -> None:
        process.kill()  # SIGKILL reaches a frozen process
        process.wait(BOUND)
        await until(lambda: "populated 0" in (group.path / "cgroup.events").read_text(), "it is empty")

    with pytest.raises(HoldLost, match="not those that were frozen"):
        await hold_through(adapter_of(group, memory), meddle)
    assert undo.pending(memory) == ()


async def test_a_cgroup_that_was_removed_in_the_hold_makes_it_a_lost_one(
    group: Tree, memory: Path, tmp_path: Path
) -> None:
    process = group.write_to(tmp_path / "file")

    async def meddle() -> None:
        process.kill()
        process.wait(BOUND)
        await until(lambda: "populated 0" in (group.path / "cgroup.events").read_text(), "it is empty")
        group.path.rmdir()

    with pytest.raises(HoldLost, match="is gone"):
        await hold_through(adapter_of(group, memory), meddle)
    assert undo.pending(memory) == ()


async def test_another_cgroup_of_the_same_name_is_not_thawed_for_it(group: Tree, memory: Path, tmp_path: Path) -> None:
    adapter = adapter_of(group, memory)
    group.write_to(tmp_path / "file")
    await adapter.undo({"unit": "", "cgroup": group.name, "inode": "1"})
    (group.path / "cgroup.freeze").write_text("1")
    await until(lambda: group.is_frozen, "it is frozen")
    await adapter.undo({"unit": "", "cgroup": group.name, "inode": "1"})
    assert group.is_frozen
    await adapter.undo({"unit": "", "cgroup": group.name, "inode": str(group.path.stat().st_ino)})
    await until(lambda: not group.is_frozen, "it is thawed")
    await adapter.undo({"unit": "", "cgroup": f"{group.name}-gone", "inode": "1"})


@pytest.mark.skipif(bool(why_not("ext4")), reason=why_not("ext4") or "-")
async def test_a_process_that_waits_for_a_frozen_disk_is_named_and_nothing_stays_frozen(
    group: Tree, memory: Path, loop_disks: LoopDisks
) -> None:
    disk = loop_disks.make("data", "ext4")
    process = group.write_to(disk.path / "file")
    await grows(disk.path / "file")
    loop_disks.freeze(disk.path)
    await until(lambda: tree.state(process.pid) == "D", "the writer waits")
    try:
        with pytest.raises(
            HoldRefused, match=rf"does not stand still .*; these wait for a disk: python.* \({process.pid}\)"
        ):
            await adapter_of(group, memory).hold(freeze(0.5))
    finally:
        loop_disks.thaw(disk.path)
    assert (group.path / "cgroup.freeze").read_text() == "0\n"
    assert undo.pending(memory) == ()
    await grows(disk.path / "file")
    process.kill()
    process.wait(BOUND)


async def test_a_hold_that_is_cancelled_leaves_nothing_frozen(
    group: Tree, memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.write_to(tmp_path / "file")
    monkeypatch.setattr(tree.Watch, "is_frozen", lambda _: False)  # as with a process that does not stand still
    work = asyncio.create_task(adapter_of(group, memory).hold(freeze()))
    await until(lambda: group.is_frozen, "it is frozen")
    monkeypatch.undo()
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()
    assert not group.is_frozen
    assert undo.pending(memory) == ()


FORBIDDEN = """
import asyncio, codecs, os, sys
from pathlib import Path
from appvss.adapters import cgroup, undo
from appvss.adapters.errors import PrivilegeMissing
from appvss.sdk.freeze import Freeze
from datetime import timedelta
codecs.lookup("ascii")  # what is imported on first use may be out of that user's reach
os.chown(sys.argv[2], 65534, 65534)
os.setgroups([]), os.setgid(65534), os.setuid(65534)
async def main():
    adapter = cgroup.Adapter(cgroup.Settings(cgroup=sys.argv[1]))
    adapter.undo_directory = Path(sys.argv[2])
    for _ in range(2):
        try:
            await adapter.hold(Freeze("c", "t", timedelta(seconds=9), timedelta(1)))
        except PrivilegeMissing:
            print(len(undo.pending(adapter.undo_directory)))
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_may_not_freeze_leaves_no_record_of_it(group: Tree, memory: Path, tmp_path: Path) -> None:
    group.write_to(tmp_path / "file")
    done = subprocess.run(
        (sys.executable, "-c", FORBIDDEN, group.name, str(memory)), capture_output=True, text=True, timeout=BOUND
    )
    assert (done.stdout.split(), done.stderr) == (["0", "0"], "")


async def test_a_kernel_without_the_freezer_is_told(
    group: Tree, memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "cgroup.procs").write_text(f"{group.start('/bin/sleep', '600').pid}\n")
    (tmp_path / "mounts").write_text(f"30 23 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
    monkeypatch.setattr(tree, "_MOUNTS", tmp_path / "mounts")
    adapter = cgroup.Adapter(cgroup.Settings(cgroup="/web"))
    adapter.undo_directory = memory
    (problem,) = [each for each in (await adapter.preflight()).findings if each.severity is Severity.PROBLEM]
    assert "Linux 5.2" in problem.hint
    with pytest.raises(ServerUnfit, match="/web cannot be read: No such file"):
        await adapter.hold(freeze())
    assert undo.pending(memory) == ()


async def test_what_cannot_be_opened_is_not_taken_for_gone(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to("loop")  # which no user can open
    (tmp_path / "mounts").write_text(f"30 23 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
    monkeypatch.setattr(tree, "_MOUNTS", tmp_path / "mounts")
    adapter = cgroup.Adapter(cgroup.Settings(cgroup="/loop/web"))
    with pytest.raises(ServerUnfit, match="there is no cgroup /loop/web"):
        await adapter.undo({"unit": "", "cgroup": "/loop/web", "inode": "1"})
    await adapter.undo({"unit": "", "cgroup": "/gone/web", "inode": "1"})


async def test_a_hold_that_ends_early_in_a_file_system_freeze_is_thawed_at_once(
    group: Tree, memory: Path, tmp_path: Path
) -> None:
    group.write_to(tmp_path / "file")
    adapter, question = adapter_of(group, memory), freeze()
    held = await adapter.hold(question)
    question.filesystem_freeze.set()
    await adapter.release(held, question)
    assert not group.is_frozen
    assert undo.pending(memory) == ()


# -- What must not be frozen.


@pytest.mark.parametrize("name", ["sshd", "qemu-ga", "systemd"])
async def test_what_must_go_on_is_not_frozen(group: Tree, memory: Path, tmp_path: Path, name: str) -> None:
    shutil.copy("/bin/sleep", tmp_path / name)
    process = group.start(str(tmp_path / name), "600")
    adapter = adapter_of(group, memory)
    with pytest.raises(ServerUnfit, match=rf"has {name} \({process.pid}\) in it"):
        await adapter.hold(freeze())
    assert (await adapter.preflight()).is_refused
    assert not group.is_frozen


async def test_an_agent_that_is_a_script_is_known_by_it(group: Tree, memory: Path, tmp_path: Path) -> None:
    script = tmp_path / "waagent"
    script.write_text("import sys; sys.stdin.read()")
    group.start(sys.executable, "-u", str(script), "-daemon")
    with pytest.raises(ServerUnfit, match="must go on"):
        await adapter_of(group, memory).hold(freeze())


@pytest.mark.parametrize(
    "argument", ["appvss", "/usr/bin/appvss", "appvss.agent.child", "/x/appvss/freezer/guardian.py"]
)
async def test_no_part_of_this_product_is_frozen(group: Tree, memory: Path, argument: str) -> None:
    group.start(sys.executable, "-IS", "-c", "import sys; sys.stdin.read()", argument)
    with pytest.raises(ServerUnfit, match="must go on"):
        await adapter_of(group, memory).hold(freeze())


async def test_a_program_that_only_sounds_like_it_is(group: Tree, memory: Path) -> None:
    group.start(sys.executable, "-IS", "-c", "import sys; sys.stdin.read()", "/srv/appvss-demo", "myappvss")
    async with adapter_of(group, memory).quiesce(freeze()):
        assert group.is_frozen


REFUSED = """
import asyncio, os, sys
from appvss.adapters import cgroup
from appvss.adapters.errors import ServerUnfit
from appvss.sdk.freeze import Freeze
from datetime import timedelta
if sys.argv[2]: open(sys.argv[2], "w").write("0")
freeze = Freeze("c", "t", timedelta(seconds=9), timedelta(1))
async def main():
    try:
        await cgroup.Adapter(cgroup.Settings(cgroup=sys.argv[1])).hold(freeze)
    except ServerUnfit as error:
        print(error)
asyncio.run(main())
"""


@pytest.mark.parametrize("who", ["itself", "its parent"])
def test_nobody_freezes_himself_or_his_parent(
    group: Tree, memory: Path, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(undo.VARIABLE, str(memory))
    elsewhere = str(tree.mount() / "cgroup.procs") if who == "its parent" else ""
    process = group.start(
        "/bin/sh",
        "-c",
        'python=$1; shift; "$python" -c "$@"; true',
        "sh",
        sys.executable,
        REFUSED,
        group.name,
        elsewhere,
    )
    said, _ = process.communicate(timeout=BOUND)
    assert "which must go on" in said
    assert (f"sh ({process.pid})" in said) is (who == "its parent") or f"({process.pid})" in said


async def test_what_is_no_cgroup_of_a_service_is_refused(group: Tree, memory: Path) -> None:
    for name, word in (
        ("/", "root of all"),
        ("/..", "root of all"),
        ("/../../etc", "there is no cgroup /etc"),
        (f"{group.name}/..", "root of all"),
        (f"{group.name}-none", "there is no cgroup"),
        (group.name, "has no processes"),
    ):
        adapter = cgroup.Adapter(cgroup.Settings(cgroup=name))
        adapter.undo_directory = memory
        with pytest.raises(ServerUnfit, match=word):
            await adapter.hold(freeze())
        assert (await adapter.preflight()).is_refused
    assert undo.pending(memory) == ()


@pytest.mark.parametrize(
    "settings",
    [
        cgroup.Settings(),
        cgroup.Settings(unit="a.service", cgroup="/a"),
        cgroup.Settings(unit="-p.service"),
        cgroup.Settings(unit="a b.service"),
        cgroup.Settings(unit="../x.service"),
        cgroup.Settings(unit="shop"),
        cgroup.Settings(cgroup="shop"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: cgroup.Settings) -> None:
    with pytest.raises(SettingInvalid):
        cgroup.Adapter(settings)


async def test_an_undo_directory_on_a_disk_means_no_hold(group: Tree, tmp_path: Path) -> None:
    group.write_to(tmp_path / "file")
    adapter = adapter_of(group, group.path / "undo")  # in any case no tmpfs
    with pytest.raises(SettingInvalid, match="lies on"):
        await adapter.hold(freeze())
    assert (await adapter.preflight()).is_refused
    assert not group.is_frozen


# -- Units of systemd.


def systemctl(path: Path, text: str) -> Path:
    """A program in the place of systemctl(1), on machines that were not booted with systemd."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def test_a_unit_is_found_by_its_control_group(group: Tree, memory: Path, tmp_path: Path) -> None:
    group.write_to(tmp_path / "file")
    said = f'echo "$@" >{tmp_path}/asked\necho ControlGroup={group.name}\necho WatchdogUSec=30s'
    settings = cgroup.Settings(unit="shop@1.service", systemctl=systemctl(tmp_path / "systemctl", said))
    adapter = cgroup.Adapter(settings)
    adapter.undo_directory = memory
    found = await adapter.preflight()
    assert [each.name for each in found.findings] == ["flushes_nothing", "watchdog"]
    assert (tmp_path / "asked").read_text() == "show --property=ControlGroup,WatchdogUSec shop@1.service\n"
    async with adapter.quiesce(freeze()):
        assert group.is_frozen
    record = {"unit": "shop@1.service", "cgroup": group.name, "inode": "1"}
    assert adapter.is_of(record)
    assert not adapter.is_of({**record, "unit": "other.service"})
    assert not adapter.is_of({})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("echo ControlGroup=", "has no processes"),
        ("echo 'System has not been booted with systemd' >&2; exit 1", "ended with code 1: System has not been booted"),
        ("echo ControlGroup=/", "root of all"),
        ("echo ControlGroup=/no-such-group", "there is no cgroup"),
    ],
)
async def test_a_unit_that_cannot_be_found_is_refused(memory: Path, tmp_path: Path, text: str, sentence: str) -> None:
    with contextlib.suppress(ServerUnfit):
        tree.mount()
        settings = cgroup.Settings(unit="shop.service", systemctl=systemctl(tmp_path / "systemctl", text))
        adapter = cgroup.Adapter(settings)
        adapter.undo_directory = memory
        with pytest.raises(AdapterError, match=sentence):
            await adapter.hold(freeze())
        return
    pytest.skip("no cgroup2 is mounted")
