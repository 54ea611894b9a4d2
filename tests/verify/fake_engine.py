"""A verifier for tests: the "database" is a file `value` in the data directory, and the marker is its first line.

What it does beside depends on the second line: `hang`, `fork` (a child that stays), `crash`, `print`, `write`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from appvss.model.grade import Grade
from appvss.verify.base import Copy, Finding, Report


def verify(copy: Copy, evidence: Mapping[str, str]) -> Report:
    """Read the file, write to it, and say what was found."""
    data = copy.locate(evidence["data_directory"])
    marker, *rest = (data / "value").read_text().splitlines()
    mood = rest[0] if rest else ""
    if mood == "hang":
        (Path(rest[1]) / "verifying").touch()
        time.sleep(600)
    if mood == "fork":
        subprocess.Popen(["sleep", rest[1]], start_new_session=True, cwd=data)
    if mood == "crash":
        raise RuntimeError("the fake has crashed")
    if mood == "print":
        os.write(1, b"x" * 100_000)
    (data / "value").write_text("changed by the verifier")
    with socket.socket() as listening:  # loopback is up, and nobody else is there
        listening.bind(("127.0.0.1", 5432))
    found = marker == evidence.get("marker")
    return Report(
        "fake",
        f"1.0 as {os.getpid()}",
        Grade.APP_VERIFIED if found else Grade.FS,
        (
            Finding("marker", found, f"the copy has {marker}"),
            Finding("work", True, f"{copy.work} {os.listdir(copy.work)}"),
        ),
    )
