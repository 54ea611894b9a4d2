"""Redis and Valkey: does a private server load the copy, with the cycle's marker, and nothing after the hold?

Before anything is started the server's own checkers look at the files, and the position is compared: the size of the
append-only file, or the time that the dump says it was made at. The marker alone would be no proof, since the key stays
in the live data after the cycle. The private server has no port, a socket in a private folder, no save points, no
primary, no configuration file, and the copy's folder (facts/database-quiesce.md section 9).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appvss.model.grade import Grade
from appvss.verify.base import Copy, Finding, Report
from appvss.verify.redis_server import PrivateServer, StartFailed

CHECK_LIMIT: Final = 600.0
"""Seconds for one checker."""
_HEAD: Final = 4096
"""Bytes of a dump in which its own words about itself stand."""


@dataclass(slots=True)
class _Files:
    """What of a server lies in the copy."""

    folder: Path
    dump: str = "dump.rdb"
    log_folder: str = "appendonlydir"
    log_name: str = "appendonly.aof"
    is_log: bool = False
    findings: list[Finding] = field(default_factory=list)

    @property
    def manifest(self) -> Path:
        """The list of the append-only files (7.0 and newer)."""
        return self.folder / self.log_folder / f"{self.log_name}.manifest"

    @property
    def single_log(self) -> Path:
        """The append-only file of servers before 7.0."""
        return self.folder / self.log_name

    def log_parts(self) -> list[tuple[Path, str]]:
        """The append-only files that are in force, with their type: `b` base, `i` increment."""
        if not self.manifest.is_file():
            return [(self.single_log, "i")] if self.single_log.is_file() else []
        parts = []
        for line in self.manifest.read_text(encoding="utf-8").splitlines():
            words = line.split()
            pairs = dict(zip(words[::2], words[1::2], strict=False))
            if pairs.get("type") in ("b", "i"):
                parts.append((self.folder / self.log_folder / pairs.get("file", "").strip('"'), pairs["type"]))
        return parts

    def note(self, name: str, passed: bool, sentence: str) -> bool:
        """Write down what was found."""
        self.findings.append(Finding(name, passed, sentence))
        return passed


def verify(copy: Copy, evidence: Mapping[str, str]) -> Report:
    """See what a copy of a server's files is worth.

    Args:
        copy: where they lie; the private server may write there.
        evidence: what the adapter gave with its ack; empty: the copy was taken without a hold.

    Raises:
        VerifierUnavailable: this machine has no such server.
    """
    files = _locate(copy, evidence)
    if files is None:
        return Report("redis", "", Grade.RAW, (Finding("start", False, "the copy has no file of a Redis server"),))
    if (stray := _stray(copy, files)) is not None:
        sentence = f"{stray} leads out of the copy: nothing is started on files that may be the live server's"
        return Report("redis", "", Grade.RAW, (Finding("start", False, sentence),))
    is_placed = _check_position(files, evidence)
    is_checked = _check_files(files)
    server = PrivateServer(files.folder, copy.work)
    try:
        version = server.start(_options(files))
        is_marked = _check_marker(server, files, evidence)
        keys = server.keys()
    except StartFailed as error:
        files.note("start", False, str(error))
        return Report("redis", "", Grade.RAW, tuple(files.findings))
    finally:
        server.stop()
    files.note("start", True, f"{version} loaded the copy in {server.took:.2f} s: {keys} keys")
    trouble = server.recovery_trouble()
    is_whole = files.note("recovery", not trouble, trouble or "the log tells of nothing that was cut off or left out")
    if is_placed and is_marked and is_checked and is_whole:
        return Report("redis", version, Grade.APP_VERIFIED, tuple(files.findings))
    return Report("redis", version, Grade.FS, tuple(files.findings))


def _locate(copy: Copy, evidence: Mapping[str, str]) -> _Files | None:
    """The files by the evidence; without any, by their usual names in the folders of the copy or one below."""
    if folder := evidence.get("data_directory"):
        try:
            place = copy.locate(folder)
        except FileNotFoundError:
            return None
        files = _Files(place, evidence.get("dbfilename") or "dump.rdb", is_log=evidence.get("recipe") == "aof")
        files.log_folder = evidence.get("appenddirname") or files.log_folder
        files.log_name = evidence.get("appendfilename") or files.log_name
        _point_into_copy(copy, files, evidence.get("log_directory", ""))
        if not evidence.get("recipe"):  # nobody knows: a server loads the append-only file, if it has one
            files.is_log = bool(files.log_parts())
        is_there = files.log_parts() if files.is_log else (place / files.dump).is_file()
        return files if is_there else None
    for top in copy.files.values():
        for place in [top, *sorted(path for path in top.iterdir() if path.is_dir())] if top.is_dir() else []:
            files = _Files(place)
            files.is_log = bool(files.log_parts())
            if files.is_log or (place / files.dump).is_file():
                return files
    return None


def _point_into_copy(copy: Copy, files: _Files, original: str) -> None:
    """A link to the append-only folder leads to the live server's: have it lead to the copy's."""
    link = files.folder / files.log_folder
    if not link.is_symlink() or not original:
        return
    try:
        target = copy.locate(original)
    except FileNotFoundError:
        return
    link.unlink()
    link.symlink_to(target)


def _stray(copy: Copy, files: _Files) -> Path | None:
    """A file or folder of the server that lies outside of the copy, by a link; None: all are the copy's."""
    parts = [path for path, _ in files.log_parts()]
    named = [files.folder, files.folder / files.dump, files.folder / files.log_folder, files.manifest, *parts]
    if (stray := next((path for path in named if not copy.has(path)), None)) is not None:
        return stray
    folders = [folder for folder in (files.folder, files.folder / files.log_folder) if folder.is_dir()]
    written = ("temp-", files.log_name)  # how the names begin that a server gives to what it writes
    links = (path for folder in folders for path in folder.iterdir() if path.is_symlink())
    return next((path for path in links if path.name.startswith(written) and not copy.has(path)), None)


def _check_position(files: _Files, evidence: Mapping[str, str]) -> bool:
    """Whether the files end where the server stood in the hold."""
    if not evidence:
        return files.note("position", False, "nothing shows that the copy was taken in a hold")
    if files.is_log:
        return _check_log_size(files, evidence)
    wanted = int(evidence.get("rdb_last_save_time") or 0)
    made = dump_time(files.folder / files.dump)
    if made is None or made > wanted:
        return files.note("position", False, f"the dump is of {made}, and the one of the hold was done at {wanted}")
    return files.note("position", True, f"the dump was made before {wanted}, when the one of the hold was done")


def _check_log_size(files: _Files, evidence: Mapping[str, str]) -> bool:
    """`aof_current_size` counts the base file, too, unless that was written by the very start of the server."""
    wanted = int(evidence.get("aof_current_size") or -1)
    sizes = [(path.stat().st_size if path.is_file() else 0, kind) for path, kind in files.log_parts()]
    whole, increments = sum(size for size, _ in sizes), sum(size for size, kind in sizes if kind == "i")
    is_same = wanted in (whole, increments)
    words = "just as in the hold" if is_same else f"and {wanted} in the hold"
    return files.note("position", is_same, f"the append-only file has {whole} bytes ({increments} appended), {words}")


def _check_files(files: _Files) -> bool:
    """The server's own checkers, without any repair."""
    if not files.is_log:
        return _check(files, "rdb", files.folder / files.dump)
    return _check(files, "aof", files.manifest if files.manifest.is_file() else files.single_log)


def _check(files: _Files, kind: str, path: Path) -> bool:
    program = next(filter(None, (shutil.which(f"{maker}-check-{kind}") for maker in ("redis", "valkey"))), None)
    if program is None:
        return files.note("check", False, f"redis-check-{kind} is not installed")
    try:
        done = subprocess.run(
            [program, str(path)], capture_output=True, text=True, errors="replace", timeout=CHECK_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return files.note("check", False, f"redis-check-{kind} was not done after {CHECK_LIMIT:.0f} s")
    last = next((line.strip() for line in reversed((done.stdout + done.stderr).splitlines()) if line.strip()), "")
    return files.note("check", done.returncode == 0, f"redis-check-{kind} says: {last[:160]}")


def _options(files: _Files) -> dict[str, str]:
    """How the private server is to load the copy."""
    return {
        "dbfilename": files.dump,
        "appendonly": "yes" if files.is_log else "no",
        "appenddirname": files.log_folder if files.manifest.is_file() else "",
        "appendfilename": files.log_name,
    }


def _check_marker(server: PrivateServer, files: _Files, evidence: Mapping[str, str]) -> bool:
    """Whether the cycle's id is in the key."""
    key, wanted = evidence.get("marker_key", ""), evidence.get("marker", "")
    if not key or not wanted:
        return files.note("marker", False, "no marker was left by a hold")
    found = server.value(int(evidence.get("database") or 0), key)
    if found == wanted:
        return files.note("marker", True, f"the key {key} has the cycle {wanted}")
    return files.note("marker", False, f"the key {key} has {found or 'nothing'}, not the cycle {wanted}")


def dump_time(path: Path) -> int | None:
    """When a dump says it was begun, in seconds since 1970; None: it does not say.

    Its head is a magic of nine bytes and then pairs of texts, each pair after the byte 0xFA; of `ctime` the value is an
    integer of 32 bits after 0xC2 (Redis, rdb.c: rdbSaveInfoAuxFields).
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    at = head.find(b"\xfa\x05ctime\xc2")
    return int.from_bytes(head[at + 8 : at + 12], "little") if at >= 0 and len(head) >= at + 12 else None
