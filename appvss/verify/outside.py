"""Verifies a copy from outside: a private copy of it, a process that has it (`inside.py`), a limit, and no traces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from appvss.model import errors
from appvss.model.duration import format_duration
from appvss.model.errors import CopyInvalid, VerifierUnavailable, VerifyError
from appvss.model.grade import Grade
from appvss.model.names import printable
from appvss.verify import image
from appvss.verify.base import Finding, Report
from appvss.verify.evidence import Evidence, carried, of_app
from appvss.verify.image import Kind
from appvss.verify.place import is_folder_itself, mount_point_of
from appvss.verify.read_only import namespace

VERIFIERS: Final = {
    engine: f"appvss.verify.{engine}" for engine in ("postgresql", "mariadb", "mysql", "sqlite", "redis")
}
"""The engines whose copies can be verified, and the module that has `verify`."""
DEFAULT_LIMIT: Final = timedelta(minutes=10)
_GONE_WITHIN: Final = 10.0
"""Seconds in which the kernel must have let go of the copies, once the process is dead."""
_APART: Final = ("unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc",
                 "--net", "--ipc", "--")  # fmt: skip
_INSIDE: Final = (sys.executable, "-c", "from appvss.verify.inside import main; main()")
_TAIL: Final = 2000


@dataclass(frozen=True, slots=True)
class Given:
    """One thing that an administrator named."""

    path: Path
    """An image, a block device or a folder."""
    mount_point: Path | None = None
    """Where it was mounted on the machine; None: that is found out by the path of the app's files."""
    partition: int | None = None
    """Of an image with several; None: the one that has the app's files."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be verified.

    Attributes:
        app: its name, for sentences and to be looked up in the certificate that the copy carries.
        given: the copies, the one with the app's data first.
        evidence: what the app had said; None: the certificate that the copy carries says it, or else `newest`.
        newest: what the app said in the newest cycle that is known; None: nothing.
        unknown: why there is no such, for the sentence.
        work: where the private copies are made; None: in the folder for temporary files.
        limit: how long mounting and verifying may take, together.
        modules: the engines' verifiers.
    """

    app: str
    given: Sequence[Given]
    evidence: Evidence | None = None
    newest: Evidence | None = None
    unknown: str = ""
    work: Path | None = None
    limit: timedelta = DEFAULT_LIMIT
    modules: Mapping[str, str] = field(default_factory=lambda: VERIFIERS)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found."""

    report: Report
    evidence: Evidence
    took: timedelta


def verify(order: Order) -> Verified:
    """Make a private copy, look at it, and leave nothing behind. Blocking; an exception, such as that of a signal,
    ends it at any time.

    Raises:
        CopyInvalid, CopyInUse, EvidenceMissing, VerifierUnavailable: it cannot be looked at.
        VerifyError: the verifier itself failed, or its time was over.
    """
    began = time.monotonic()
    kinds = [image.kind_of(given.path) for given in order.given]
    if any(kind is not Kind.FOLDER for kind in kinds):
        _check_machine()
    for given, kind in zip(order.given, kinds, strict=True):
        image.refuse_if_in_use(given.path, kind)
    with _folders(order.work) as (copies, work):
        answer = _asked(order, _copied(order, kinds, copies), copies, work)
    report = Report(
        answer["engine"],
        answer["version"],
        Grade(answer["grade"]),
        tuple(Finding(**finding) for finding in answer["findings"]),
    )
    return Verified(report, Evidence(**answer["evidence"]), timedelta(seconds=time.monotonic() - began))


def _check_machine() -> None:
    if not sys.platform.startswith("linux"):
        raise VerifierUnavailable("images are mounted on Linux alone", "Mount the copy yourself and name the folder.")
    if os.geteuid() != 0:
        raise VerifierUnavailable("only root can mount an image", "Run it as root, or name a folder with the files.")


@contextmanager
def _folders(parent: Path | None) -> Iterator[tuple[Path, Path]]:
    """A folder for copies, and one for the verifier with a short path, for sockets. Both are gone at the end."""
    try:
        copies = Path(tempfile.mkdtemp(prefix="appvss-verify-", dir=parent))
    except OSError as error:
        raise VerifierUnavailable(
            f"no folder can be made for the copy: {(error.strerror or str(error)).lower()}", "Name one with --work."
        ) from error
    try:
        copies.chmod(0o711)  # servers are other users
        work = Path(tempfile.mkdtemp(prefix=f"appvss-v{os.getpid()}-", dir="/tmp"))  # a socket's path holds 107 bytes
        try:
            work.chmod(0o711)
            yield copies, work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        _let_go(copies)
        shutil.rmtree(copies, ignore_errors=True)


def _copied(order: Order, kinds: Sequence[Kind], copies: Path) -> dict[str, Any]:
    """Make the private copies; what the process inside has to know of them."""
    images: list[dict[str, Any]] = []
    folders: dict[str, str] = {}
    evidence = order.evidence
    for number, (given, kind) in enumerate(zip(order.given, kinds, strict=True)):
        target = copies / f"copy-{number}"
        if kind is Kind.FOLDER:
            evidence = evidence or _evidence_of(given.path, order)
            folders |= _copied_folder(given, target, evidence)
            continue
        image.copy(given.path, kind, target)
        mount_point = str(given.mount_point) if given.mount_point else ""
        images.append({"copy": str(target), "mount_point": mount_point, "partition": given.partition})
    return {"images": images, "folders": folders, "evidence": evidence.document() if evidence else None}


def _evidence_of(folder: Path, order: Order) -> Evidence:
    """What is needed to know which part of a folder is copied."""
    if (certificate := carried(folder)) is not None:
        return of_app(certificate, order.app, f"the certificate in {printable(str(folder), 1024)}")
    if order.newest is not None:
        return order.newest
    raise errors.EvidenceMissing(
        f"nobody knows what {printable(order.app, 80)} has said: {order.unknown}",
        "Name the certificate (--certificate), a history (--history), or --engine and --data-directory.",
    )


def _copied_folder(given: Given, target: Path, evidence: Evidence) -> dict[str, str]:
    """Copy the parts of a folder that the evidence speaks of, not the whole of it."""
    evidence.check_whole()
    data = Path(evidence.data_directory or "/")
    place = given.mount_point or mount_point_of(given.path, data) or (data if is_folder_itself(given.path) else None)
    if place is None:
        raise CopyInvalid(
            f"{printable(str(given.path), 1024)} has nothing of {printable(str(data), 1024)}",
            "Name the folder that has it, and which path of the machine that is: --volume PATH=FOLDER.",
        )
    copied: dict[str, str] = {}
    for path in evidence.paths():
        if not path.is_relative_to(place) or any(path.is_relative_to(done) for done in copied):
            continue
        source = given.path / path.relative_to(place)
        if not source.resolve().is_relative_to(given.path.resolve()):
            raise CopyInvalid(
                f"{printable(str(path), 1024)} leads out of {printable(str(given.path), 1024)}",
                "Name the path that it really was on the machine, and the folder that has it: --volume PATH=FOLDER.",
            )
        if source.is_file():
            source, path = source.parent, path.parent
        if source.is_dir() and str(path) not in copied:
            part = target.with_name(f"{target.name}-{len(copied)}")
            part.mkdir()
            image.copy(source, Kind.FOLDER, part)
            copied[str(path)] = str(part)
    return copied


def _asked(order: Order, copied: Mapping[str, Any], copies: Path, work: Path) -> dict[str, Any]:
    """Let the process inside do it."""
    answer = copies / "answer"
    is_apart = os.geteuid() == 0 and sys.platform.startswith("linux")
    words = {
        **copied,
        "app": order.app,
        "newest": order.newest.document() if order.newest else None,
        "unknown": order.unknown,
        "work": str(work),
        "answer": str(answer),
        "modules": dict(order.modules),
        "is_apart": is_apart,
        "machine": namespace(),
    }
    with (copies / "log").open("w+b") as log:
        process = subprocess.Popen(
            [*(_APART if is_apart else ()), *_INSIDE],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _tell(process, json.dumps(words))
            process.wait(order.limit.total_seconds())
        except subprocess.TimeoutExpired:
            raise VerifyError(
                f"the copy was not verified within {format_duration(order.limit)}", "Give it more: --limit 30m."
            ) from None
        finally:
            _end(process)
        log.seek(0, os.SEEK_END)
        log.seek(max(0, log.tell() - _TAIL))
        said = log.read().decode("utf-8", "replace").strip().splitlines()
    return _read_answer(answer, said)


def _tell(process: subprocess.Popen[bytes], order: str) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # it has ended; its log says why
            process.stdin.write(order.encode() + b"\n")
            process.stdin.flush()


def _read_answer(path: Path, said: Sequence[str]) -> dict[str, Any]:
    if not path.exists():
        last = printable(said[-1]) if said else "it said nothing"
        raise VerifyError(f"the verifier failed: {last}", "This is a fault of AppVSS or of this machine; report it.")
    answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "error" in answer:
        told = answer["error"]
        kind = getattr(errors, told["name"], VerifyError)
        raise (kind if issubclass(kind, VerifyError) else VerifyError)(told["sentence"], told["hint"])
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it with all that it has started: the first process of its namespace takes everything along."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def _let_go(copies: Path) -> None:
    """Wait until no loop device has a copy any more, and detach what is left."""
    if not sys.platform.startswith("linux"):
        return
    deadline = time.monotonic() + _GONE_WITHIN
    while left := [f"/dev/{loop.name}" for loop in _loops_of(copies)]:
        if time.monotonic() > deadline:
            for device in left:
                with suppress(VerifyError):
                    image.run("losetup", "--detach", device)
            return
        time.sleep(0.02)  # the kernel works on after the unmount, and says nothing when it is done


def _loops_of(folder: Path) -> Iterator[Path]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if backing.read_text().startswith(f"{folder}/"):
                yield backing.parent.parent
