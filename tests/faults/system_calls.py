"""What a process asked of the kernel between two moments, as strace(1) saw it, and what of that a hold forbids.

The rule (ARCHITECTURE section 5): no write to any file, nothing opened for writing, no module loaded, no new process.
Sockets, pipes, event descriptors and devices are no disks.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Left out: what waits, and what only looks at the process itself. A trace of everything slows the broker down too much.
_PASSED_OVER = (
    "futex,epoll_wait,epoll_pwait,epoll_ctl,poll,ppoll,select,clock_gettime,clock_nanosleep,gettimeofday,getpid,gettid,"
    "sched_yield,madvise,munmap,mprotect,brk,rt_sigaction,rt_sigprocmask,set_robust_list,rseq,restart_syscall"
)
_LINE = re.compile(r"(?P<pid>\d+) +(?P<at>\d+\.\d+) (?P<name>\w+)\((?P<rest>.*)")
_DESCRIPTOR = re.compile(r"\d+<(?P<what>(?:[^<>]|<[^<>]*>)*)>")
"""The first argument as `-yy` shows it: `7</tmp/file>`, `5<UNIX-STREAM:[1->2,"/x.sock"]>`, `1</dev/null<char 1:3>>`."""

_WRITES = (
    "write pwrite64 writev pwritev pwritev2 sendfile copy_file_range splice fsync fdatasync syncfs sync_file_range "
    "ftruncate fallocate fchmod fchown fsetxattr fremovexattr"
)
"""Forbidden on a descriptor of a file."""
_CHANGES = (
    "sync truncate rename renameat renameat2 unlink unlinkat mkdir mkdirat rmdir link linkat symlink symlinkat mknod "
    "mknodat chmod fchmodat fchmodat2 chown lchown fchownat utime utimes utimensat futimesat setxattr lsetxattr "
    "removexattr mount umount2 creat execve execveat fork vfork io_uring_setup io_setup"
)
"""Forbidden at all times."""
_OPENS = frozenset({"open", "openat", "openat2"})
_MODULE = re.compile(r'\.(?:py|pyc|so)(?:\.[\d.]+)?"')


@dataclass(frozen=True)
class SystemCall:
    """One call, or its beginning where the kernel let something else go first."""

    at: float
    """Seconds of the wall clock."""
    name: str
    text: str
    """All of the line but its process."""

    @property
    def descriptor(self) -> str:
        """What the first argument stands for; empty: it is no descriptor."""
        found = _DESCRIPTOR.match(self.text.partition("(")[2])
        return found["what"] if found else ""

    @property
    def _is_on_file(self) -> bool:
        what = self.descriptor
        return what.startswith("/") and "<char " not in what

    @property
    def is_forbidden(self) -> bool:
        """Whether a hold forbids it."""
        if self.name in _CHANGES.split():
            return True
        if self.name in _WRITES.split():
            return self._is_on_file
        if self.name in ("clone", "clone3"):
            return "CLONE_THREAD" not in self.text
        if self.name in _OPENS:
            is_for_writing = (
                re.search(r"\b(?:O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND|O_TMPFILE)\b", self.text) is not None
            )
            return (is_for_writing and '"/dev/' not in self.text) or _MODULE.search(self.text) is not None
        return self.name == "mmap" and "MAP_SHARED" in self.text and "PROT_WRITE" in self.text and self._maps_file

    @property
    def _maps_file(self) -> bool:
        return re.search(r", \d+</(?!dev/)", self.text) is not None


class Trace:
    """The calls of one process and its threads, in their order."""

    def __init__(self, calls: Sequence[SystemCall]) -> None:
        self.calls = tuple(calls)

    @classmethod
    def read(cls, file: Path) -> Self:
        """What strace has written by now."""
        return cls(tuple(_calls(file.read_text(errors="replace").splitlines())))

    def between(self, begins: float, ends: float) -> Trace:
        """What happened between two instants of the wall clock."""
        return Trace([call for call in self.calls if begins < call.at < ends])

    def last(self, name: str, *parts: str) -> SystemCall:
        """The last call of this name with these parts in its text."""
        found = [call for call in self.calls if call.name == name and all(part in call.text for part in parts)]
        assert found, (name, parts)
        return found[-1]

    def first(self, name: str, *parts: str) -> SystemCall:
        """The first one."""
        found = [call for call in self.calls if call.name == name and all(part in call.text for part in parts)]
        assert found, (name, parts)
        return found[0]

    @property
    def forbidden(self) -> list[str]:
        """What of it a hold forbids."""
        return [call.text for call in self.calls if call.is_forbidden]

    @property
    def names(self) -> set[str]:
        """The names of all calls."""
        return {call.name for call in self.calls}


def _calls(lines: Sequence[str]) -> Iterator[SystemCall]:
    for line in lines:
        if found := _LINE.match(line):
            yield SystemCall(float(found["at"]), found["name"], f"{found['name']}({found['rest']}")


def tracing(file: Path, *, everything: bool = False) -> tuple[str, ...]:
    """What to put before a command so that its calls are written to `file`. The process stays the caller's child.

    Args:
        file: the trace.
        everything: whether to trace what only waits, too.
    """
    kept = () if everything else ("-e", f"trace=!{_PASSED_OVER}")
    return ("strace", "-D", "-f", "-qq", "-yy", "-ttt", "-s", "300", "-e", "signal=none", *kept, "-o", str(file))


def why_not() -> str:
    """Why this machine cannot trace; empty: it can."""
    return "" if shutil.which("strace") else "strace is not installed (sh scripts/setup tools)"
