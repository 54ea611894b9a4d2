"""What stands between the adapter and a program: it starts it, sees its end, and ends all that it has left behind.

    python -I -S -B keeper.py CONTROL REPORT GRACE PROGRAM LOCK ARGUMENT...

It is a process of its own, because it takes in the orphans of the program (PR_SET_CHILD_SUBREAPER, prctl(2)): a script
that forks and leaves is found by that, whatever sessions it has opened. It imports little, and writes nothing but to
REPORT:

    started PID | failed ERRNO          once
    left PID NAME                       for each process that outlived the program, and was ended
    stuck PID NAME                      for each that SIGKILL does not end (it waits for a frozen file system, say)
    ended CODE                          last; negative: by that signal

CONTROL takes `t` (SIGTERM to the program's process group) and `k` (end everything). Its end says that the adapter has
died: then the program, whose standard input has ended by that as well, has GRACE seconds, and nothing else follows.
LOCK is a descriptor that only has to stay open as long as anything runs, or -1.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

_SUBREAPER = 36  # linux/prctl.h
_END_LIMIT = 3.0
"""Seconds in which what was killed must be gone; what is not then is stuck."""
_PAUSE = 0.01


class _Keeper:
    def __init__(self, control: int, report: int, grace: float, names: dict[str, str]) -> None:
        self.control = control
        self.report = report
        self.grace = grace
        self.names = names
        """What executing by a descriptor calls a program, which is a number, and what it is called."""
        self.program = 0
        self.status: int | None = None
        self.wake, writer = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(writer, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def say(self, line: str) -> None:
        try:
            os.write(self.report, f"{line}\n".encode())
        except OSError:
            return  # the adapter has died: there is nobody to tell

    def start(self, executable: str, arguments: list[str], kept: int) -> int:
        """The error's number, or 0."""
        reader, writer = os.pipe()
        self.program = os.fork()
        if self.program == 0:
            _become(executable, arguments, kept, writer)
        os.close(writer)
        refused = os.read(reader, 16)
        os.close(reader)
        return int(refused or 0)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.program:
                self.status = status

    def signal_group(self, number: int) -> None:
        if self.status is None:
            try:
                os.killpg(self.program, number)
            except OSError:
                return

    def watch(self) -> None:
        """Until the program has ended, or has been ended."""
        deadlines: list[tuple[float, int]] = []
        listening = [self.wake, self.control]
        while True:
            self.reap()
            if self.status is not None:
                return
            now = time.monotonic()
            while deadlines and deadlines[0][0] <= now:
                number = deadlines.pop(0)[1]
                if number == signal.SIGKILL:
                    return
                self.signal_group(number)
            left = deadlines[0][0] - now if deadlines else None
            ready = select.select(listening, [], [], left)[0]
            if self.wake in ready:
                os.read(self.wake, 4096)
            if self.control in ready:
                word = os.read(self.control, 1)
                if word == b"k":
                    return
                if word == b"t":
                    self.signal_group(signal.SIGTERM)
                if not word:
                    listening.remove(self.control)
                    now = time.monotonic()
                    deadlines = [(now + self.grace, signal.SIGTERM), (now + 2 * self.grace, signal.SIGKILL)]

    def end_all(self) -> list[tuple[int, str]]:
        """Kill all descendants, until there are none. Those that do not go."""
        own = os.getpid()
        deadline = time.monotonic() + _END_LIMIT
        named: set[int] = set()
        while True:
            self.reap()
            alive = _descendants(own)
            for pid, name in alive:
                if self.status is not None and pid not in named:
                    named.add(pid)
                    self.say(f"left {pid} {self.names.get(name, name)}")
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    continue
            if not alive or time.monotonic() > deadline:
                return alive
            select.select([self.wake], [], [], _PAUSE)  # a child's end, or a grandchild's, of which nobody tells
            try:
                os.read(self.wake, 4096)
            except BlockingIOError:
                continue


def _become(executable: str, arguments: list[str], kept: int, writer: int) -> None:
    """The program, from here on; in the forked child."""
    try:
        os.setsid()
        os.chdir("/")
        os.umask(0o077)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if kept >= 0:
            os.set_inheritable(kept, True)  # a script's interpreter opens the script by this descriptor
        os.execve(executable, arguments, os.environ)  # noqa: S606 - no shell, and that is the point
    except OSError as error:
        os.write(writer, str(error.errno or 1).encode())
    finally:
        os._exit(127)


def _descendants(root: int) -> list[tuple[int, str]]:
    """Every process below `root` that is no zombie, and its name."""
    try:
        with open(f"/proc/self/task/{root}/children", encoding="ascii") as file:
            if not file.read().strip():  # nearly always, and much cheaper to learn
                return []
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        pass
    children: dict[int, list[tuple[int, str, str]]] = {}
    try:
        numbers = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for number in numbers:
        try:
            with open(f"/proc/{number}/stat", encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        name = text[text.index("(") + 1 : text.rindex(")")]
        fields = text[text.rindex(")") + 2 :].split()
        children.setdefault(int(fields[1]), []).append((int(number), name, fields[0]))
    found: list[tuple[int, str]] = []
    waiting = [root]
    while waiting:
        for pid, name, state in children.get(waiting.pop(), []):
            waiting.append(pid)
            if state not in "ZXx":
                found.append((pid, "".join(each if each.isprintable() else "?" for each in name)))
    return found


def _take_in_orphans() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _main(arguments: list[str]) -> int:
    control, report, program, lock = (int(arguments[index]) for index in (0, 1, 3, 4))
    for descriptor in (control, report, program, lock):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    executable = f"/proc/self/fd/{program}" if program >= 0 else arguments[5]
    _take_in_orphans()
    keeper = _Keeper(control, report, float(arguments[2]), {str(program): os.path.basename(arguments[5])})
    refused = keeper.start(executable, arguments[5:], program)
    if refused:
        keeper.say(f"failed {refused}")
        return 1
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # the program's own; it alone is to keep them open
        os.dup2(nothing, descriptor)
    keeper.say(f"started {keeper.program}")
    keeper.watch()
    ended_by_itself = keeper.status is not None
    if not ended_by_itself:
        keeper.signal_group(signal.SIGKILL)
    for pid, name in keeper.end_all():
        keeper.say(f"stuck {pid} {keeper.names.get(name, name)}")
    keeper.reap()
    code = os.waitstatus_to_exitcode(keeper.status) if keeper.status is not None else -signal.SIGKILL
    keeper.say(f"ended {code}")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
