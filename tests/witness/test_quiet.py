"""From the first ack to the thaw the witness writes nothing, imports nothing, and starts no process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.running_broker import ROOT

# An audit hook cannot be taken away again, so this runs in a process of its own.
_PROGRAM = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
from tests.witness.held import CLOCK, begin, said
from appvss.model.app import AppId
from appvss.witness import Witness

top = Path(sys.argv[1])
seen, found = Witness(CLOCK), []

def hook(event, arguments):
    if not is_held:
        return
    if event == "import":
        found.append(f"import {arguments[0]}")
    elif event == "open":
        path, mode, flags = arguments
        writes = (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or "w" in (mode or "")
        if writes and not is_ours:
            found.append(f"open {path}")
    elif event.startswith(("subprocess", "os.fork", "os.posix_spawn", "os.exec", "os.system")):
        found.append(event)

is_held = is_ours = False
sys.addaudithook(hook)
is_held = True
for number in range(20):
    begin(seen, "c", top, app=AppId("app", str(number)))
begin(seen, "c", top / "nowhere", app=AppId("nowhere"))
said(seen, "c")
is_ours = True
(top / "orders.db").write_bytes(b"xy")
is_ours = False
begin(seen, "c", top, app=AppId("late"))
assert len(said(seen, "c")) == 21, said(seen, "c")
seen.forget("c")
is_held = False
seen.close(timedelta(seconds=5))
print(found)
"""


def test_nothing_is_written_imported_or_started(tmp_path: Path) -> None:
    (tmp_path / "orders.db").write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
