"""PostgreSQL's own programs, of the major version that a copy needs, run as the owner of the copy's files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from appvss.model.errors import VerifierUnavailable

TOOL_LIMIT: Final = timedelta(minutes=2)
"""How long a program may take that looks at one file."""
_FOLDERS: Final = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/pgsql-{}/bin", "/usr/local/pgsql/bin")
"""Where Debian, Red Hat, and people have them."""
_OPTIONS: Final[Mapping[str, Any]] = {
    "cwd": "/",
    "stdin": subprocess.DEVNULL,
    # Times in UTC and words in English, for they are read; and nothing of the caller's PGHOST and the like.
    "env": {"PATH": f"/usr/sbin:/sbin:{os.defpath}", "LC_ALL": "C", "TZ": "UTC"},
}
_COVER: Final = """
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


def why_no_cover() -> str:
    """Why `start_covered` cannot be done on this machine; empty: it can."""
    if os.geteuid() != 0:
        return "only root can"
    missing = [name for name in ("unshare", "setpriv", "mount") if shutil.which(name) is None]
    return f"there is no {missing[0]}" if missing else ""


@dataclass(frozen=True, slots=True)
class Programs:
    """One version's programs."""

    folder: Path
    user: int
    """The owner of the copy's data directory: whom the server runs as, which refuses root."""
    group: int

    def has(self, name: str) -> bool:
        """Whether a program is there: a package may lack some."""
        return (self.folder / name).is_file()

    def run(self, name: str, *arguments: str, limit: timedelta = TOOL_LIMIT) -> subprocess.CompletedProcess[str]:
        """Run one to its end.

        Raises:
            subprocess.TimeoutExpired: it took too long, and was killed.
        """
        return subprocess.run(
            [*self._as_whom(), str(self.folder / name), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit.total_seconds(),
            check=False,
            **_OPTIONS,
        )

    def start(self, name: str, *arguments: str, **rest: Any) -> subprocess.Popen[bytes]:
        """Start one."""
        return subprocess.Popen([*self._as_whom(), str(self.folder / name), *arguments], **_OPTIONS, **rest)

    def start_covered(
        self, cover: Mapping[Path, Path], name: str, *arguments: str, **rest: Any
    ) -> subprocess.Popen[bytes]:
        """Start one for which folders of the copy lie over those of the machine. Its process id is the program's.

        Args:
            cover: a folder of the machine, and the copy's that lies over it. Empty: as `start`.
            name: the program.
            arguments: of the program.
            rest: of `subprocess.Popen`.
        """
        if not cover:
            return self.start(name, *arguments, **rest)
        pairs = [str(path) for place, folder in cover.items() for path in (folder, place)]
        command = ["unshare", "--mount", "--", "sh", "-c", _COVER, "cover", str(len(cover)), *pairs]
        return subprocess.Popen([*command, *self._as_whom(), str(self.folder / name), *arguments], **_OPTIONS, **rest)

    def _as_whom(self) -> list[str]:
        """What stands before a command. A program in between, and no argument of `subprocess`: with that one Python
        forks, and what other threads of this process do at a fork (gRPC's pollers) has been seen to end the child.
        """
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={self.user}", f"--regid={self.group}", "--clear-groups", "--"]


def find_programs(data: Path) -> Programs:
    """The programs that a data directory needs.

    Raises:
        VerifierUnavailable: they are not installed, or its owner's files are not this user's.
        ValueError: it is no data directory.
    """
    try:
        major = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{data} is no data directory of PostgreSQL: it has no PG_VERSION") from None
    owner = data.stat()
    if os.geteuid() not in (0, owner.st_uid):
        raise VerifierUnavailable(
            f"the copy's files belong to the user {owner.st_uid}, and this is the user {os.geteuid()}",
            "Run it as root, or as the user whom they belong to.",
        )
    if owner.st_uid == 0:
        raise VerifierUnavailable(
            "the copy's files belong to root, as whom PostgreSQL does not run", "Copy them with their owners."
        )
    for folder in _candidates(major):
        if _major_of(folder) == major:
            return Programs(folder, owner.st_uid, owner.st_gid)
    raise VerifierUnavailable(
        f"there is no PostgreSQL {major} on this machine, which the copy needs",
        f"Install it (Debian: postgresql-{major}), or have its `postgres` in PATH.",
    )


def _candidates(major: str) -> Iterator[Path]:
    for folder in _FOLDERS:
        yield Path(folder.format(major))
    if (postgres := shutil.which("postgres")) is not None:
        yield Path(os.path.realpath(postgres)).parent
    if (pg_config := shutil.which("pg_config")) is not None:
        done = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, timeout=10, check=False)
        if done.stdout.strip():
            yield Path(done.stdout.strip())


def _major_of(folder: Path) -> str:
    if not (folder / "pg_waldump").is_file() or not (folder / "pg_controldata").is_file():
        return ""
    try:
        done = subprocess.run(
            [str(folder / "postgres"), "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except OSError:
        return ""
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return found[1] if found else ""
