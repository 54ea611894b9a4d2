"""The process that has the copy: mounts it, finds the app's files, and runs the engine's verifier.

    python -m appvss.verify.inside < ORDER

It is started by `appvss.verify.outside`, with a mount, process, network and IPC namespace of its own where that can be:
what is mounted and started here is gone when it ends, however it ends, a started copy reaches nobody, and the machine's
own files are read-only (`read_only`). The order is a line of JSON on standard input; the answer goes to the file that
it names. When standard input ends, so does this.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from appvss.model.errors import AppvssError, CopyInvalid, EvidenceMissing, VerifierUnavailable
from appvss.model.names import printable
from appvss.verify.base import Copy, Report
from appvss.verify.evidence import Evidence, carried, of_app
from appvss.verify.image import run
from appvss.verify.mounting import mount_image, roots_of
from appvss.verify.place import is_folder_itself, mount_point_of
from appvss.verify.read_only import leave_writable

SENTENCE_LIMIT: Final = 500
"""Longest sentence of a verifier that is handed on, in characters."""
_SIOCSIFFLAGS: Final = 0x8914  # linux/sockios.h
_IFF_UP: Final = 0x1
_CARRIED: Final = "the certificate that the image carries"

Verifier = Callable[[Copy, Mapping[str, str]], Report]


def main() -> None:
    """Carry out one order."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_caller, name="ends with its caller", daemon=True).start()
    try:
        answer = _carry_out(order)
    except AppvssError as error:
        answer = {"error": {"name": error.name, "sentence": error.sentence, "hint": error.hint}}
    except Exception:  # noqa: BLE001 the interpreter cannot end in order while another thread reads
        traceback.print_exc()
        os._exit(1)
    target = Path(order["answer"])
    target.with_suffix(".new").write_text(json.dumps(answer), encoding="utf-8")
    target.with_suffix(".new").rename(target)
    sys.stderr.flush()
    os._exit(0)


def _end_with_caller() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _carry_out(order: Mapping[str, Any]) -> dict[str, Any]:
    if order["is_apart"]:
        _raise_loopback()
        _keep_from_live_files(order)
    files, evidence = _files(order)
    report = _verifier(evidence, order["modules"])(Copy(files, Path(order["work"])), evidence.values)
    return {
        "evidence": evidence.document(),
        "files": {str(place): str(folder) for place, folder in files.items()},
        "engine": report.engine,
        "version": printable(report.version, 64),
        "grade": report.grade.value,
        "findings": [
            {"name": one.name, "passed": one.passed, "sentence": printable(one.sentence, SENTENCE_LIMIT)}
            for one in report.findings
        ],
    }


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def _keep_from_live_files(order: Mapping[str, Any]) -> None:
    """Before anything of the copy is looked at: only the copy, which is mounted after it, and the verifier's own folder
    can be written to, wherever the copy may lead.
    """
    copies = Path(order["answer"]).parent
    leave_writable([copies, Path(order["work"])], order["machine"])
    scratch = copies / "tmp"
    scratch.mkdir()
    scratch.chmod(0o1777)  # servers are other users
    os.environ |= {"TMPDIR": str(scratch), "SQLITE_TMPDIR": str(scratch)}  # /tmp is the machine's


def _files(order: Mapping[str, Any]) -> tuple[dict[Path, Path], Evidence]:
    """Where the machine's paths lie now, and what the app had said."""
    files: dict[Path, Path] = {Path(place): Path(folder) for place, folder in order["folders"].items()}
    roots: list[Path] = []
    for number, image in enumerate(order["images"]):
        found = list(roots_of(mount_image(Path(image["copy"]), Path(f"{image['copy']}.d"), image["partition"])))
        if image["mount_point"]:
            files[Path(image["mount_point"])] = found[0]
        roots.extend(found if number == 0 or not image["mount_point"] else ())
    evidence = _evidence(order, [*roots, *files.values()])
    evidence.check_whole()
    wanted = Path(evidence.data_directory or "/")
    if not any(place in files for place in (wanted, *wanted.parents)):
        place, root = _placed(roots, wanted)
        files[place] = root
    if order["is_apart"]:
        _mount_within(files)
    _check_whole(files, evidence)
    return files, evidence


def _mount_within(files: Mapping[Path, Path]) -> None:
    """Put volumes back that were mounted within others: a server looks for its files by paths below its own folder."""
    for place, folder in sorted(files.items(), reverse=True):  # the inner ones first, and then with them
        outer = next((one for one in place.parents if one in files), None)
        if outer is not None and (point := files[outer] / place.relative_to(outer)).is_dir():
            if not Copy(files, Path()).has(point):
                raise CopyInvalid(f"{printable(str(place), 1024)} leads out of the copy", "")
            run("mount", "--rbind", str(folder), str(point))


def _evidence(order: Mapping[str, Any], roots: list[Path]) -> Evidence:
    if order["evidence"] is not None:
        return Evidence(**order["evidence"])
    for root in roots:
        if (certificate := carried(root)) is not None:
            return of_app(certificate, order["app"], _CARRIED)
    if order["newest"] is not None:
        return Evidence(**order["newest"])
    raise EvidenceMissing(
        f"nobody knows what {printable(order['app'], 80)} has said: {order['unknown']}",
        "Name the certificate (--certificate), a history (--history), or --engine and --data-directory.",
    )


def _placed(roots: list[Path], wanted: Path) -> tuple[Path, Path]:
    for root in roots:
        if (place := mount_point_of(root, wanted)) is not None:
            return place, root
    for root in roots:
        if is_folder_itself(root):
            return wanted, root
    raise CopyInvalid(
        f"the copy has nothing of {printable(str(wanted), 1024)}",
        "Name the copy of the volume that has it, and where that was mounted: --volume MOUNTPOINT=IMAGE.",
    )


def _check_whole(files: Mapping[Path, Path], evidence: Evidence) -> None:
    """Every folder that the evidence names must be in the copies, and none may lead out of them."""
    copy = Copy(files, Path())
    for path in evidence.paths():
        if not any(place in files for place in (path, *path.parents)):
            raise CopyInvalid(
                f"{evidence.engine} had files in {printable(str(path), 1024)}, of which no copy was named",
                f"Name it as well: --volume MOUNTPOINT=IMAGE, with the mount point of {printable(str(path), 1024)}.",
            )
        try:
            copy.locate(path)
        except FileNotFoundError as error:
            raise CopyInvalid(
                printable(str(error), 1024),
                "Name the path that it really was on the machine, and its volume's copy: --volume MOUNTPOINT=IMAGE.",
            ) from None


def _verifier(evidence: Evidence, modules: Mapping[str, str]) -> Verifier:
    if evidence.engine not in modules:
        named = (
            f"{printable(evidence.engine, 40)} copies" if evidence.engine else "copies of an app that is no adapter's"
        )
        raise VerifierUnavailable(
            f"{named} cannot be verified",
            f"There are verifiers for {', '.join(modules)}; start any other copy by hand.",
        )
    try:
        verify: Verifier = import_module(modules[evidence.engine]).verify
    except ModuleNotFoundError as error:
        raise VerifierUnavailable(
            f"the verifier of {evidence.engine} needs the Python package {error.name}",
            "Install it, best as the adapter's extra, such as appvss[postgres].",
        ) from error
    return verify


if __name__ == "__main__":
    main()
