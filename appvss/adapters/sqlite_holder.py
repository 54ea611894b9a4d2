"""The process that holds one SQLite database, or looks at one: a program of its own, standard library alone.

    python -I -S -B sqlite_holder.py

It is told what to do in lines of JSON on its standard input and answers each with one on its standard output:

    {"do": "be ready"}              -> {"ready": true}
    {"do": "freeze", "path": ..., "wait": seconds, "patience": seconds, "limit": seconds}
                                    -> {"held": {...}}
    {"do": "confirm"}               -> {"unbroken": true}
    {"do": "release"}               -> {"released": true}, and it ends
    {"do": "digest", "path": ...}   -> {"sha256": ..., "size": ..., "salts": ...}
    {"do": "look", "path": ...}     -> {"seen": {...}}

What it cannot do is `{"refused": name, "sentence": ...}`. When its input ends, and when the limit passes, it ends at
once and the kernel frees its locks: it took 2 ms (facts/database-quiesce.md section 2).

**A process that holds never opens the file by any other way** than the two connections it has: the locks of fcntl(2)
belong to the process, and one `open` and `close` of the file drops them all (section 6.2). So `digest` and `look` are
for other processes, and refused in one that holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, NoReturn

LIMIT_PASSED: Final = 4
"""The exit status with which it ends at its limit."""
_MAGIC: Final = b"SQLite format 3\0"
_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")  # sqlite.org/fileformat.html section 3
_CHUNK: Final = 1 << 20
_FIRST_WAIT, _LONGEST_WAIT = 0.002, 0.05

Answer = dict[str, Any]


class NotLocked(Exception):
    """A lock that was given is none."""


class Hold:
    """The lock on one database. Made by `take`; from then on nobody else writes, until `let_go` or the process's end.

    Args:
        path: the database.
        wait: how many seconds other writers are waited for.
    """

    def __init__(self, path: str, wait: float) -> None:
        self._path = path
        self._before = _identity(path)  # before it is opened, so that a file that takes its place is another one
        self._lock = _connect(path, wait)
        self._look = _connect(path, wait)
        self._files: tuple[object, ...] = ()
        self._version = 0

    def take(self, patience: float) -> Answer:
        """Keep writers out, then bring the log into the main file. In this order: a checkpoint before the lock leaves
        a gap, in which four commits were lost (section 6.2).

        Args:
            patience: how many seconds a reader is waited for that keeps the log from being brought in.
        """
        self._lock.execute("BEGIN IMMEDIATE")
        self._prove_lock()
        (mode,) = self._look.execute("PRAGMA journal_mode").fetchone()
        held: Answer = {"journal_mode": mode, "wal": "none", "frames": 0, "version": sqlite3.sqlite_version}
        if mode == "wal":
            held |= self._checkpoint(patience)
        (held["pages"],) = self._look.execute("PRAGMA page_count").fetchone()
        (self._version,) = self._look.execute("PRAGMA data_version").fetchone()
        self._files = self._seen()
        if self._files[0] != self._before:
            raise OSError(f"{self._path} was replaced by another file right now")
        return held

    def _prove_lock(self) -> None:
        """Of a database that may only be read, `BEGIN IMMEDIATE` succeeds and locks nothing, so another one must fail.

        Raises:
            NotLocked: it does not.
        """
        self._look.execute("PRAGMA busy_timeout = 0")
        try:
            self._look.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        else:
            raise NotLocked(f"{self._path} may only be read")

    def _checkpoint(self, patience: float) -> Answer:
        """PASSIVE, which needs no writer's lock, until all of the log is in the main file. The busy handler does not
        cover another connection's checkpoint, so it is tried again here.
        """
        self._look.execute("PRAGMA synchronous = FULL")  # what it brings in is on the disk, whatever others have set
        deadline, wait = time.monotonic() + patience, _FIRST_WAIT
        while True:
            busy, log, done = self._look.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if not busy and log == done:
                return {"wal": "folded", "frames": log}
            if time.monotonic() >= deadline:
                return {"wal": "part_of_the_data", "frames": log, "folded_frames": done}
            time.sleep(wait)
            wait = min(wait * 1.5, _LONGEST_WAIT)

    def broken(self) -> str:
        """Why the hold was not unbroken; empty: it was. A connection of its own sees every commit of any other."""
        if not self._lock.in_transaction:
            return f"the transaction that locked {self._path} has ended"
        if self._seen() != self._files:
            return f"{self._path} or its log was replaced or removed in the hold"
        (version,) = self._look.execute("PRAGMA data_version").fetchone()
        return f"{self._path} was written to in the hold" if version != self._version else ""

    def let_go(self) -> None:
        """Let writers go on."""
        self._lock.execute("ROLLBACK")
        self._look.close()
        self._lock.close()

    def _seen(self) -> tuple[object, ...]:
        """Which files lie there. stat(2) opens none."""
        log = self._path + "-wal"
        return _identity(self._path), _identity(log) if os.path.exists(log) else None


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _connect(path: str, wait: float, mode: str = "rw") -> sqlite3.Connection:
    """A connection to a database that is there already."""
    uri = f"{Path(path).as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=max(wait, 0.0), isolation_level=None)


def digest(path: str) -> Answer:
    """What a file has in it now, and have the kernel bring it to the disk; and which log lies beside it, by its salts,
    which are others for each time that the log is begun anew (sqlite.org/fileformat.html section 4.1).
    """
    with open(path, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        found = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            found.update(chunk)
        answer: Answer = {"sha256": found.hexdigest(), "size": file.tell(), "salts": ""}
    if os.path.exists(path + "-wal"):
        with open(path + "-wal", "rb", buffering=0) as log:
            answer["salts"] = log.read(24)[16:24].hex()
    return answer


def look(path: str) -> Answer:
    """What lies at a path, without changing anything: a database that nobody has open is not opened either, since the
    first connection makes files beside it, and the last one removes them.
    """
    seen: Answer = {"readable": True, "writable": os.access(path, os.W_OK), "version": sqlite3.sqlite_version}
    seen["folder_writable"] = os.access(os.path.dirname(path) or ".", os.W_OK)
    with open(path, "rb", buffering=0) as file:
        header = file.read(100)
        seen["size"] = os.fstat(file.fileno()).st_size
        seen["owner"] = os.fstat(file.fileno()).st_uid
    seen["is_database"] = header.startswith(_MAGIC) and len(header) == 100
    seen["is_empty"] = not header
    if not seen["is_database"]:
        return seen
    seen["journal_mode"] = "wal" if header[18] == 2 else "rollback"  # sqlite.org/fileformat.html section 1.3
    seen["wal_size"] = os.path.getsize(path + "-wal") if os.path.exists(path + "-wal") else 0
    seen["hot_journal"] = _has_hot_journal(path)
    seen["locked"] = ""
    if seen["journal_mode"] == "rollback" or os.path.exists(path + "-wal"):
        seen["locked"] = _read_fails(path)
    return seen


def _has_hot_journal(path: str) -> bool:
    """A journal in mode PERSIST stays when it is not hot, with its magic overwritten."""
    try:
        with open(path + "-journal", "rb", buffering=0) as file:
            return file.read(len(_JOURNAL_MAGIC)) == _JOURNAL_MAGIC
    except OSError:
        return False


def _read_fails(path: str) -> str:
    """Why the database cannot be read now, by SQLite's name for it and in its words; empty: it can."""
    connection = None
    try:
        connection = _connect(path, 1.0, "ro")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        return f"{getattr(error, 'sqlite_errorname', '')}: {error}"
    finally:
        if connection is not None:
            connection.close()
    return ""


class Program:
    """The one loop. A thread of its own reads the input, so that its end is seen in the middle of a wait for a lock."""

    def __init__(self) -> None:
        self._questions: queue.Queue[Answer] = queue.Queue()
        self._hold: Hold | None = None
        self._deadline: float | None = None

    def run(self) -> NoReturn:
        """Answer until the input ends."""
        threading.Thread(target=self._read, name="input", daemon=True).start()
        while True:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            try:
                question = self._questions.get(timeout=left)
            except queue.Empty:
                os._exit(
                    LIMIT_PASSED
                )  # the kernel frees the locks; nothing is asked of a file system that may be frozen
            try:
                answer = self._answer(question)
            except sqlite3.Error as error:
                answer = {"refused": getattr(error, "sqlite_errorname", "") or "SQLITE_ERROR", "sentence": str(error)}
            except NotLocked as error:
                answer = {"refused": "SQLITE_READONLY", "sentence": str(error)}
            except OSError as error:
                answer = {"refused": "OSError", "sentence": error.strerror or str(error)}
            os.write(1, json.dumps(answer).encode() + b"\n")
            if "released" in answer:
                os._exit(0)

    def _read(self) -> NoReturn:
        for line in sys.stdin.buffer:
            self._questions.put(json.loads(line))
        os._exit(0)  # whoever asked is gone

    def _answer(self, question: Answer) -> Answer:
        match question["do"]:
            case "freeze" if self._hold is None:
                self._deadline = time.monotonic() + question["limit"]
                self._hold = Hold(question["path"], question["wait"])
                return {"held": self._hold.take(question["patience"])}
            case "confirm" if self._hold is not None:
                broken = self._hold.broken()
                return {"unbroken": not broken, "sentence": broken}
            case "release":
                if self._hold is not None:
                    self._hold.let_go()
                return {"released": True}
            case "be ready":
                return {"ready": True}
            case "digest" if self._hold is None:
                return digest(question["path"])
            case "look" if self._hold is None:
                return {"seen": look(question["path"])}
        return {"refused": "out_of_turn", "sentence": f"{question['do']} cannot be done now"}


if __name__ == "__main__":
    Program().run()
