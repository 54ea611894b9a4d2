"""A private server of MariaDB or MySQL on a copy: no network, no replication, no events, nothing of the live server's.

Three ways lead from a copy back to the live server, and all are closed here: the index of the binary log may have
absolute paths (the copy gets an index of its own); links and InnoDB's `.isl` files lead to folders outside of the data
directory, and so does the redo log itself, which names files by path (the server runs in a mount namespace in which the
copy's folder lies over the live one); and a replica would go on replicating (it is told not to start).

The binary log stays on: recovery decides the fate of prepared transactions by it
(facts/database-quiesce.md section 5.3).
Automatic repair is off: what the first look at a table says, counts.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pymysql

from appvss.model.errors import VerifierUnavailable
from appvss.verify.base import Copy

START_LIMIT: Final = timedelta(minutes=10)
"""How long a recovery may take."""
STOP_LIMIT: Final = timedelta(minutes=1)
CHECK_LIMIT: Final = timedelta(hours=2)
"""How long the check of one table may take."""
_POLL: Final = timedelta(milliseconds=50)
BINLOG_MAGIC: Final = b"\xfebin"
"""How a file of a binary log begins."""
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_START_OPTIONS: Final = ("innodb_page_size", "innodb_data_file_path", "lower_case_table_names", "aria_log_dir_path")
_OVERLAY: Final = """
set -e
count=$1
shift
while [ "$count" -gt 0 ]; do
    mount --bind "$1" "$2"
    shift 2
    count=$((count - 1))
done
exec "$@"
"""
"""Puts folders of the copy over those of the machine, in a mount namespace of its own, and goes on as the server."""


class NotStarted(Exception):
    """There is no private server; the text is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class Product:
    """What differs between the two."""

    name: str
    program: str
    variable: str
    """The environment variable that names another program."""
    options: tuple[str, ...]


MARIADB: Final = Product(
    "MariaDB",
    "mariadbd",
    "APPVSS_MARIADBD",
    ("--skip-slave-start", "--aria-recover-options=OFF", "--performance-schema=OFF", "--wsrep-on=OFF"),
)
MYSQL: Final = Product(
    "MySQL",
    "mysqld",
    "APPVSS_MYSQLD",
    ("--skip-replica-start", "--mysqlx=OFF", "--upgrade=NONE", "--log-error-verbosity=3"),
)


@dataclass(frozen=True, slots=True)
class Files:
    """Where the parts of a copy lie."""

    data: Path
    binlogs: tuple[Path, ...]
    """The files of the binary log, the oldest first; empty: there is none."""
    redo: Path | None
    undo: Path | None
    innodb: Path | None
    overlays: tuple[tuple[Path, Path], ...]
    """Folders of the copy, and those of the machine that they must lie over while the server runs."""
    options: tuple[str, ...]
    """What else the server must be told, so that it takes the files for its own."""


class PrivateServer:
    """A server that was started on a copy."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
        self._process = process
        self._socket = socket
        self._log = log

    @property
    def log(self) -> str:
        """All that it has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def connect(self) -> Any:
        """A connection of an account that may do everything. Whoever asks for it closes it."""
        limit = CHECK_LIMIT.total_seconds()
        return pymysql.connect(unix_socket=str(self._socket), user="root", autocommit=True, read_timeout=limit)

    def wait_until_ready(self) -> None:
        """Wait for the end of its recovery.

        Raises:
            NotStarted: it ended, or took too long.
        """
        deadline = time.monotonic() + START_LIMIT.total_seconds()
        while "ready for connections" not in self.log or not self._socket.exists():
            if self._process.poll() is not None:
                raise NotStarted(f"it ended with {self._process.returncode}: {self.last_error()}")
            if time.monotonic() > deadline:
                raise NotStarted(f"it was not ready within {START_LIMIT.total_seconds():g} s: {self.last_error()}")
            time.sleep(_POLL.total_seconds())

    def last_error(self) -> str:
        """The first line of its log that is an error, else the last line."""
        lines = self.log.splitlines() or ["it said nothing"]
        errors = [line for line in lines if "[ERROR]" in line]
        return (errors or lines[-1:])[0].partition("]")[2].strip()[:300] or lines[-1][:300]

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT.total_seconds())
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def find_files(copy: Copy, evidence: Mapping[str, str]) -> Files:
    """Where the parts of a copy lie.

    Raises:
        NotStarted: a part is not in the copy.
    """
    data = _data_directory(copy, evidence)
    try:
        redo, undo, innodb = (
            copy.locate(evidence[name]) if evidence.get(name) else None
            for name in ("redo_directory", "undo_directory", "innodb_directory")
        )
        binlogs: tuple[Path, ...] = ()
        if evidence.get("binlog_file"):
            recorded = copy.locate(evidence["binlog_file"])
            binlogs = binlogs_of(recorded.parent, recorded.name.rpartition(".")[0])
        elif name := _binlog_name(data):
            binlogs = binlogs_of(data, name)
        return Files(
            data, binlogs, redo, undo, innodb, tuple(_overlays(copy, data)), tuple(_start_options(copy, evidence))
        )
    except FileNotFoundError as error:
        raise NotStarted(str(error)) from None


def binlogs_of(folder: Path, name: str) -> tuple[Path, ...]:
    """The files of a binary log, the oldest first."""
    found = re.compile(re.escape(name) + r"\.\d{6,}")
    return tuple(sorted((path for path in folder.iterdir() if found.fullmatch(path.name)), key=number_of))


def _binlog_name(data: Path) -> str:
    """What the binary log in a data directory is called, where no evidence says it; empty: there is none."""
    for index in sorted(data.glob("*.index")):
        for line in index.read_text(errors="replace").splitlines():
            file = data / Path(line).name
            if "relay" not in file.name and file.is_file() and _is_binlog(file):
                return file.name.rpartition(".")[0]
    return ""


def _is_binlog(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(BINLOG_MAGIC)) == BINLOG_MAGIC


def number_of(path: Path) -> int:
    """Of a file of a binary log: 3 for `binlog.000003`."""
    return int(path.suffix[1:])


def _data_directory(copy: Copy, evidence: Mapping[str, str]) -> Path:
    if named := evidence.get("data_directory"):
        try:
            data = copy.locate(named)
        except FileNotFoundError as error:
            raise NotStarted(str(error)) from None
        if not data.is_dir():
            raise NotStarted(f"the copy has no folder {named}")
        return data
    for root in copy.files.values():
        for pattern in ("ibdata1", "*/ibdata1", "var/lib/mysql/ibdata1"):
            for found in root.glob(pattern):
                return found.parent
    raise NotStarted("no data directory was named, and none was found in the copy")


def _start_options(copy: Copy, evidence: Mapping[str, str]) -> Iterator[str]:
    """The options that the evidence gives, if they are of those that may be given, with their paths in the copy.

    Raises:
        FileNotFoundError: the copy does not carry one.
        NotStarted: they cannot be read.
    """
    try:
        options = shlex.split(evidence.get("start_options", ""))
    except ValueError as error:
        raise NotStarted(f"the start_options of the evidence are cut, or none: {error}") from None
    for option in options:
        name, _, value = option.partition("=")
        if name not in _START_OPTIONS:
            continue
        parts = [str(copy.locate(part)) if part.startswith("/") else part for part in value.split(";")]
        yield f"--{name.replace('_', '-')}={';'.join(parts)}"


def _overlays(copy: Copy, data: Path) -> Iterator[tuple[Path, Path]]:
    """Folders outside of the data directory that something in it leads to.

    Raises:
        NotStarted: the copy does not carry one.
    """
    seen: set[Path] = set()
    walked: set[Path] = set()
    folders = [data]
    while folders:
        for folder, names, files in os.walk(folders.pop()):
            for name in (*names, *files):
                path = Path(folder, name)
                if path.is_symlink():
                    if copy.has(path):
                        continue
                    target = Path(os.readlink(path))
                    if not target.is_absolute():
                        raise NotStarted(f"{path.relative_to(folder)} leads out of the copy: it is a link to {target}")
                    is_folder = copy.locate(target).is_dir()
                    place = target if is_folder else target.parent
                elif name.endswith(".isl"):
                    is_folder, place = False, Path(path.read_text().strip()).parent
                else:
                    continue
                if is_folder and place not in walked:  # a linked database may have links as well
                    walked.add(place)
                    folders.append(copy.locate(place))
                if place.is_absolute() and place not in seen:
                    seen.add(place)
                    yield copy.locate(place), place


def find_program(product: Product) -> tuple[str, str]:
    """The server's program and its version.

    Raises:
        VerifierUnavailable: it is not on this machine, or is the other product's.
    """
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/libexec", "/usr/local/libexec"])
    program = os.environ.get(product.variable) or shutil.which(product.program, path=places)
    if not program:
        raise VerifierUnavailable(f"{product.program} is not installed on this machine", _install(product))
    said = subprocess.run([program, "--no-defaults", "--version"], capture_output=True, text=True, check=False).stdout
    if ("MariaDB" in said) != (product is MARIADB):
        raise VerifierUnavailable(f"{program} is not {product.name}: {said.strip()[:100]}", _install(product))
    found = re.search(r"Ver (\S+)", said)
    return program, found[1] if found else ""


def _install(product: Product) -> str:
    return f"Install {product.name} of the copy's version, or name its {product.program}: {product.variable}."


def is_older(program: str, data: str) -> bool:
    """Whether a program's version is of an older series than the one that has written the data."""
    ours, theirs = _VERSION.search(program), _VERSION.search(data)
    if ours is None or theirs is None:
        return False
    return (int(ours[1]), int(ours[2])) < (int(theirs[1]), int(theirs[2]))


@contextmanager
def started(copy: Copy, product: Product, files: Files, evidence: Mapping[str, str]) -> Iterator[PrivateServer]:
    """A private server on a copy, until the end of the block.

    Raises:
        NotStarted: it cannot be started, or its recovery failed.
        VerifierUnavailable: this machine cannot start it.
    """
    program, version = find_program(product)
    if is_older(version, evidence.get("version", "")):
        sentence = f"{program} is {version}, older than the copy's {evidence['version']}"
        raise VerifierUnavailable(sentence, _install(product))
    owner = files.data.stat()
    home = copy.work / "server"
    home.mkdir(mode=0o700)
    command = [program, *_options(product, files, home, evidence)]
    if os.geteuid() == 0:
        os.chown(home, owner.st_uid, owner.st_gid)
        if owner.st_uid == 0:
            command.append("--user=root")
        command = _as(owner.st_uid, owner.st_gid, command)
    server = PrivateServer(_launch(command, files.overlays, home), home / "s", home / "log")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def _as(user: int, group: int, command: Sequence[str]) -> list[str]:
    return ["setpriv", "--reuid", str(user), "--regid", str(group), "--clear-groups", *command]


def _launch(command: Sequence[str], overlays: Sequence[tuple[Path, Path]], home: Path) -> subprocess.Popen[bytes]:
    if overlays:
        if os.geteuid() != 0:
            raise VerifierUnavailable(
                f"tables lie outside of the data directory, in {overlays[0][1]}: only root can check them",
                "Verify it as root on Linux.",
            )
        if missing := [place for _, place in overlays if not place.is_dir()]:
            raise VerifierUnavailable(
                f"the copy's tables are named by a folder that is not on this machine: {missing[0]}",
                "Make an empty folder there; nothing is written to it.",
            )
        pairs = [str(path) for pair in overlays for path in pair]
        script = ["sh", "-c", _OVERLAY, "appvss", str(len(overlays)), *pairs]
        command = ["unshare", "--mount", "--propagation", "private", *script, *command]
    with (home / "log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")


def _options(product: Product, files: Files, home: Path, evidence: Mapping[str, str]) -> list[str]:
    (home / "tmp").mkdir(mode=0o1777)
    (home / "tmp").chmod(0o1777)
    options = [
        "--no-defaults",
        f"--datadir={files.data}",
        f"--socket={home / 's'}",
        f"--pid-file={home / 'pid'}",
        f"--tmpdir={home / 'tmp'}",
        "--skip-networking",
        "--skip-grant-tables",
        "--event-scheduler=DISABLED",
        "--myisam-recover-options=OFF",
        "--innodb-flush-log-at-trx-commit=2",
        "--sync-binlog=0",
        "--server-id=1",
        "--innodb-buffer-pool-load-at-startup=OFF",
        "--innodb-buffer-pool-dump-at-shutdown=OFF",
        f"--relay-log={home / 'relay'}",
        *product.options,
    ]
    for name, folder in (
        ("innodb-log-group-home-dir", files.redo),
        ("innodb-undo-directory", files.undo),
        ("innodb-data-home-dir", files.innodb),
    ):
        if folder is not None:
            options.append(f"--{name}={folder}")
    options += files.options
    redo = (files.redo or files.data) / "ib_logfile0"
    if product is MARIADB and redo.exists():
        options.append(f"--innodb-log-file-size={redo.stat().st_size}")  # Else the server makes a new one.
    return options + _binlog_options(files, home)


def _binlog_options(files: Files, home: Path) -> list[str]:
    """The copy's own binary log, by an index that leads nowhere else."""
    if not files.binlogs:
        return ["--skip-log-bin"]
    index = home / "binlog.index"
    index.write_text("".join(f"{path}\n" for path in files.binlogs))
    index.chmod(0o666)
    last = files.binlogs[-1]
    return [f"--log-bin={last.parent / last.name.rpartition('.')[0]}", f"--log-bin-index={index}"]
