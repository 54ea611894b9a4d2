"""The pages on how to install the broker, followed line by line, in a folder that stands for the machine's root.

What only the whole system can do (systemctl, service, pkg...) is not run: there it is checked that the words are right.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from appvss.model.errors import ExitCode
from tests.packaging.unit import SERVICE
from tests.support.app_process import app_process
from tests.support.running_broker import BOUND, QUIET, ROOT, running_broker

LINUX = ROOT / "docs" / "install-linux.md"
AGENT = ROOT / "docs" / "agent.md"
FREEBSD = ROOT / "docs" / "install-freebsd.md"
RUN_IN_FOLDER = {"install", "ln", "mkdir", "rm", "systemd-sysusers", "systemd-tmpfiles"}
"""Run as they stand there, with every absolute path below the folder."""
RUN = {"appvss", "until"}
"""Run as they stand there, for a broker with one app."""
ONLY_READ = {
    "systemctl": r"(daemon-reload|(enable --now|disable --now|status|reload|restart) appvss-broker)",
    "journalctl": r"-u appvss-broker( -f -p warning)?",
    "service": r"(devd restart|appvss_broker (start|status|stop|restart|reload|configtest))",
    "sysrc": r"(appvss_broker_enable=YES|-x appvss_broker_enable)",
    "pw": r"(groupadd appvss|groupdel appvss|groupmod appvss -m postgres)",
    "usermod": r"-a -G appvss postgres",
    "groupdel": r"appvss",
    "pkg": r"install python311 py311-grpcio py311-protobuf",
    "python3": r"-m venv /opt/appvss-\d",
    "python3.11": r"-m venv --system-site-packages /usr/local/appvss-\d",
    "pip": r"install '\.\[cli\]'",
    "grep": r"appvss_broker /var/log/(daemon\.log|messages)",
    "pgrep": r"-x hv_vss_daemon \|\| /usr/sbin/hv_vss_daemon",
}
"""Whole-system commands, and the words that may follow."""
EXITS = {"appvss doctor": {ExitCode.SUCCESS, ExitCode.UNFIT}}
"""Where the machine on which the tests run may have something to say."""
NO_COMMANDS = {
    "[Service]",
    "ReadWritePaths=/srv/appvss",
    "CapabilityBoundingSet=CAP_NET_ADMIN",
    "RestrictAddressFamilies=AF_NETLINK",
}


def lines(page: Path) -> list[str]:
    """What a page tells people to type."""
    typed = re.findall(r"^ {4,6}(\S.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [line for line in typed if line not in NO_COMMANDS]


def command_of(line: str) -> str:
    return Path(line.split()[0]).name


@pytest.mark.parametrize("page", [LINUX, FREEBSD], ids=["linux", "freebsd"])
def test_every_line_is_a_command_that_is_run_or_read_here(page: Path) -> None:
    typed = lines(page)
    assert len(typed) > 20
    for line in typed:
        command = command_of(line)
        if command in ONLY_READ:
            assert re.fullmatch(ONLY_READ[command], line.partition(" ")[2]), line
        else:
            assert command in RUN_IN_FOLDER | RUN, line


class Folder:
    """A machine's root in a folder.

    Args:
        path: the folder.
        home: where the page puts the versions.
        runtime_directory: of the broker that `appvss` speaks to.
    """

    def __init__(self, path: Path, home: str, runtime_directory: Path) -> None:
        self.path = path
        for name in ("etc", "usr/local/bin", f"{home}/appvss-1/bin", f"{home}/appvss-2/bin"):
            (path / name).mkdir(parents=True)
        for each in path.glob("**/appvss-?/bin"):
            program = each / "appvss"  # what pip would install
            words = "from appvss.cli.main import main; main()"
            program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -c "{words}" "$@"\n')
            program.chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{path}/usr/local/bin{os.pathsep}{os.environ['PATH']}",
            "APPVSS_RUNTIME_DIRECTORY": str(runtime_directory),
        }

    def has(self, name: str) -> bool:
        return os.path.lexists(self.path / name)

    async def type(self, line: str) -> None:
        """Type a line; everything absolute in it is below this folder."""
        rooted = re.sub(r"(?<=\s)/(?=\w)", f"{self.path}/", line)
        command = command_of(line)
        if command.startswith("systemd-"):
            if shutil.which(command) is None:
                return
            rooted = rooted.replace(command, f"{command} --root={self.path}", 1)
        if command == "rm":
            assert all(word.startswith((f"{self.path}/", "-")) for word in rooted.split()[1:]), rooted
        process = await asyncio.create_subprocess_shell(
            rooted,
            cwd=ROOT,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(BOUND):
            said, _ = await process.communicate()
        assert process.returncode in EXITS.get(line, {0}), (rooted, process.returncode, said.decode())
        assert b"Traceback" not in said, said.decode()


async def follow(page: Path, directory: Path, *installed: str) -> None:
    """Type the whole page. What is `installed` is there afterwards, up to the uninstallation, and then it is not."""
    uninstall = lines(page).index(
        "systemctl disable --now appvss-broker" if page is LINUX else "service appvss_broker stop"
    )
    state = ("--state-directory", str(directory / "state"))
    async with (
        running_broker(QUIET, directory=directory, arguments=state) as broker,
        app_process(broker.runtime_directory, "orders-db") as app,
    ):
        await app.line("welcome")
        folder = Folder(directory / "root", "opt" if page is LINUX else "usr/local", broker.runtime_directory)
        for number, line in enumerate(lines(page)):
            if number == uninstall:
                assert [name for name in installed if not folder.has(name)] == []
            if command_of(line) not in ONLY_READ:
                await folder.type(line)
        assert [name for name in installed if folder.has(name)] == []
        left = {str(path.relative_to(folder.path)) for path in folder.path.glob("**/appvss*")}
        assert left <= {"run/appvss"}  # which ends with the machine


@pytest.mark.skipif(os.geteuid() != 0, reason="everything on these pages is typed as root")
async def test_the_page_for_linux_as_it_is_typed(directory: Path) -> None:
    await follow(
        LINUX,
        directory,
        f"etc/systemd/system/{SERVICE.name}",
        "etc/sysusers.d/appvss.conf",
        "etc/tmpfiles.d/appvss.conf",
        "etc/appvss/broker.toml",
        "usr/local/bin/appvss",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="everything on these pages is typed as root")
async def test_the_page_for_freebsd_as_it_is_typed(directory: Path) -> None:
    await follow(
        FREEBSD,
        directory,
        "usr/local/etc/rc.d/appvss_broker",
        "usr/local/etc/devd/appvss.conf",
        "usr/local/etc/appvss/broker.toml",
        "usr/local/bin/appvss",
    )


@pytest.mark.parametrize("page", [LINUX, FREEBSD], ids=["linux", "freebsd"])
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"packaging/\S+", text))
    kept = {str(path.relative_to(ROOT)) for path in (ROOT / "packaging").rglob("*") if path.is_file()}
    of_agent = set(re.findall(r"packaging/[\w./-]+", AGENT.read_text(encoding="utf-8")))
    assert of_agent <= kept
    kept -= of_agent
    assert named
    assert named <= kept
    assert {name for name in kept if ("systemd" if page is LINUX else "freebsd") in name} == named
