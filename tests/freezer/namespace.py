"""Real file systems on loop devices in a mount namespace of their own, looked at from inside.

    seen = look_inside(tmp_path, "ext4 a; mount -o loop a A", paths=["A/x"])

The script is of sh and runs in a directory of its own. `image NAME` makes a file and a directory of the same name in
capitals; `ext4`, `xfs` and `btrfs_` format it too; `loop FILE` sets `node`; `apart SCRIPT` runs in one more namespace,
which is there until the end. Whatever the script mounts is gone when it ends, with its loop devices.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appvss.freezer.dependency import Dependencies
from appvss.freezer.mountinfo import Mount, MountTable, read
from appvss.freezer.surroundings import look_around

BOUND = 60.0
"""Seconds for making and mounting all of one test."""
_PRELUDE = """
set -eu
LOOPS= APART=
clean() {
    [ -z "$APART" ] || { kill "$APART"; wait "$APART" || :; }
    for loop in $LOOPS; do losetup -d "$loop" || :; done
}
trap clean EXIT
image() { truncate -s "${2:-64M}" "$1"; mkdir -p "$(dirname "$1")/$(basename "$1" | tr a-z A-Z)"; }
ext4() { image "$1"; mkfs.ext4 -q "$1"; }
xfs() { image "$1" 320M; mkfs.xfs -q "$1"; }
btrfs_() { image "$1" 128M; mkfs.btrfs -q "$1" >&2; }
apart() {
    mkfifo ready stay
    unshare --mount --propagation private sh -euc "$1; echo > ready; exec cat stay" >&2 &
    APART=$!
    read -r _ < ready
}
loop() { node=$(losetup --show -f "$1"); LOOPS="$LOOPS $node"; }
"""


@dataclass(frozen=True)
class Seen:
    """What was found inside."""

    home: bytes
    mounts: MountTable
    dependencies: Dependencies

    def mount(self, name: str) -> Mount:
        """The mount that a path below the home leads to."""
        found = self.mounts.carrying(self.path(name))
        assert found is not None
        assert found.path == self.path(name), f"{name} is not mounted"
        return found

    def device(self, name: str) -> str:
        """The super block that is mounted there."""
        return self.mount(name).device

    def path(self, name: str) -> bytes:
        """The whole path of a name below the home."""
        return self.home + b"/" + name.encode()

    def carriers(self, name: str) -> set[str]:
        """The super blocks that carry the one that is mounted there, directly."""
        return {image.carrier for image in self.dependencies.images if image.carried == self.device(name)}


def look_inside(home: Path, script: str, paths: Sequence[str] = (), own: Sequence[str] = ()) -> Seen:
    """Run the script in a namespace of its own, and look around where it has ended; names are below the home."""
    looker = [sys.executable, "-m", "tests.freezer.namespace", *(f"path={home}/{path}" for path in paths)]
    looker += [f"own={home}/{path}" for path in own]
    body = f'{_PRELUDE}\ncd "$1"; shift\n{script}\ncd "$REPOSITORY"; "$@"\n'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", body, "sh", str(home), *looker],
        capture_output=True,
        timeout=BOUND,
        check=False,
        env={**os.environ, "REPOSITORY": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr.decode()
    mounts, dependencies = pickle.loads(done.stdout)
    return Seen(os.fsencode(home), mounts, dependencies)


def why_not(*programs: str) -> str:
    """Why this machine cannot have such file systems; empty: it can."""
    if not sys.platform.startswith("linux"):
        return "there are no mount namespaces here"
    if os.geteuid() != 0:
        return "only root can mount a file system"
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "there is no loop device (/dev/loop-control)"
    needed = ("mount", "losetup", "unshare", "mkfs.ext4", *programs)
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (sh scripts/setup tools)"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=BOUND, check=False)
    return "" if tried.returncode == 0 else f"no mount namespace can be made: {tried.stderr.decode().strip()}"


def main() -> None:
    """Look around, inside."""
    said = [argument.partition("=") for argument in sys.argv[1:]]
    mounts = read()
    own = {f"file {number}": text for number, (kind, _, text) in enumerate(said) if kind == "own"}
    found = look_around(mounts, [text for kind, _, text in said if kind == "path"], own)
    sys.stdout.buffer.write(pickle.dumps((mounts, found)))


if __name__ == "__main__":
    main()
