"""The program that thaws the file systems whatever becomes of the broker. ARCHITECTURE section 5.

Run as a file of its own, `python -I -S -B guardian.py CHANNEL DIRECTORY`, by `appvss.freezer.guardian_process`. That is
why all of it is in this one file: so it loads nothing of the package. Both arguments are numbers of inherited
descriptors: one end of a Unix socket pair (SOCK_SEQPACKET, one JSON object in each packet), and the runtime directory,
in which the record of what may be frozen lies (`appvss.freezer.record`).

    broker --open, sync, freeze, thaw--> guardian --s, f, t--> a child for each file system --FIFREEZE, FITHAW--> kernel

A FIFREEZE may hang in the kernel, where nothing can end it (facts/linux-hv-vss.md section 5.1). So the guardian itself
never calls one: a child that hangs keeps nobody else waiting, and its thaw waits in its socket, behind its freeze. All
children are forked before anything is frozen. A child thaws what its own FIFREEZE has frozen, and nothing else.

    the broker dies, or closes its end         the guardian thaws all, in reverse, and ends
    the limit passes (no word renews it)       the guardian thaws all, and says so
    the guardian dies                          each child sees the end of its socket and thaws
    the guardian is stopped                    each child has the limit, too, and a little more
    a child dies                               the guardian forks another in its place; nothing is thawed by that
    a child is stopped                         the guardian has it go on
    broker and guardian are stopped            the limit of the children

Nothing is looked up by a path while anything is held, nothing is written but to sockets.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

FIFREEZE: Final = 0xC0045877
"""linux/fs.h: `_IOWR('X', 119, int)`; the argument is ignored (facts/linux-hv-vss.md section 5.1)."""
FITHAW: Final = 0xC0045878
PACKET_LIMIT: Final = 4096
"""Bytes of the longest message on the channel."""
RECORD: Final = "frozen.json"
"""The file of the record, in the runtime directory."""
WAVE_PAUSE: Final = 0.1
"""Seconds for which the thaw of one wave is waited for before the next: a thaw that hangs holds up nobody."""
CHILD_GRACE: Final = 1.0
"""Seconds after the limit in which the guardian thaws in order, before the children do without it."""
DIED: Final = errno.ECHILD
"""In the place of an errno: the child died over it, and nobody knows what the kernel has done."""
LATE: Final = errno.ETIME
"""In the place of an errno: the child had thawed before it was told to, since the limit had passed."""

_RESTART_PAUSE: Final = 0.1
"""Seconds between two children for one file system."""
_MOST_PACKETS: Final = 64
"""How many of the broker's words are heard before everything else has its turn."""
_COMMAND: Final = struct.Struct("=cd")
"""To a child: `s` sync, `f` freeze, `t` thaw; with `f` how many seconds the hold may last at most."""
_ANSWER: Final = struct.Struct("=cid")
"""From a child: the command, the errno or zero, the seconds that it took."""
_IGNORED: Final = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE,
)  # fmt: skip
_MCL_CURRENT: Final = 1  # linux/mman.h
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
"""Fetches nothing ahead."""
_CAP_IPC_LOCK: Final = 14
"""The bit in the sets of capabilities (linux/capability.h)."""
_library: Final = ctypes.CDLL(None, use_errno=True)
_syncfs: Final = getattr(_library, "syncfs", None)  # Linux alone has it, and this file is read elsewhere, too
_mlockall: Final = _library.mlockall


# -- a child


def call(number: int, descriptor: int) -> int:
    """The errno of one ioctl, or zero. May hang."""
    while True:
        try:
            fcntl.ioctl(descriptor, number, 0)
        except InterruptedError:
            continue
        except OSError as error:
            return error.errno or errno.EIO
        return 0


def sync(descriptor: int) -> int:
    """The errno of syncfs(2), or zero. May hang."""
    if _syncfs is None:
        return errno.ENOSYS
    return ctypes.get_errno() if _syncfs(descriptor) else 0


class Tender:
    """The life of a child: it carries out what it is told, and thaws before it ends.

    Args:
        channel: to the guardian.
        descriptor: of the file system.
        is_ours: whether it takes over from a child that has frozen it.
        due: when the hold ends in any case, by the monotonic clock; None: not yet known.
    """

    def __init__(self, channel: socket.socket, descriptor: int, is_ours: bool, due: float | None) -> None:
        self._channel = channel
        self._descriptor = descriptor
        self._is_ours = is_ours
        self._due = due if is_ours else None
        self._is_late = False

    def run(self) -> None:
        """Until the guardian closes the channel, or is gone."""
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        try:
            while True:
                wait = None if self._due is None else max(0.0, self._due - time.monotonic()) * 1000
                if not poller.poll(wait):
                    self._due = None
                    self._is_late = self._thaw() == 0
                    continue
                packet = self._channel.recv(_COMMAND.size)
                if len(packet) != _COMMAND.size:
                    return
                self._obey(*_COMMAND.unpack(packet))
        except OSError:  # the guardian is gone
            return
        finally:
            self._thaw()

    def _obey(self, command: bytes, limit: float) -> None:
        began = time.monotonic()
        if command == b"s":
            number = sync(self._descriptor)
        elif command == b"f":
            number = call(FIFREEZE, self._descriptor)
            self._is_ours = number == 0
            self._due = began + limit if self._is_ours else None
        else:
            number = LATE if self._is_late else self._thaw()
        self._channel.send(_ANSWER.pack(command, number, time.monotonic() - began))

    def _thaw(self) -> int:
        """Thaw, if it is ours to thaw. EINVAL: somebody else has done it."""
        if not self._is_ours:
            return 0
        self._due = None
        number = call(FITHAW, self._descriptor)
        self._is_ours = number not in (0, errno.EINVAL)  # else it is tried once more at the end
        return number


# -- the guardian's side of a child


class Child:
    """One file system of a hold, and the process that tends it. The process may be replaced.

    Args:
        wave: with which it is frozen.
        descriptor: of the file system.
    """

    def __init__(self, wave: int, descriptor: int) -> None:
        self.wave = wave
        self.descriptor = descriptor
        self.pid = 0
        """Zero: the process is gone, and another one is due."""
        self.channel: socket.socket | None = None
        self.not_before = 0.0
        """When the next process may be started."""
        self.owes_sync = False
        """Whether it was asked to sync and has not answered."""
        self.is_asked_to_freeze = False
        self.freeze: int | None = None
        """What its FIFREEZE came to; None: not known."""
        self.is_asked_to_thaw = False
        self.is_thawed = False
        """Confirmed: nothing of ours is frozen any more."""
        self.was_thawing = False
        """Whether a former process died over the thaw and may have done it."""

    @property
    def may_be_ours(self) -> bool:
        """Whether the file system may be frozen by us. A freeze of which nobody has heard the end is taken for one."""
        return self.is_asked_to_freeze and self.freeze in (None, 0, DIED) and not self.is_thawed

    def tell(self, command: bytes, limit: float = 0.0) -> None:
        """Give the process a command. One that is gone does not hear it; that is noticed elsewhere."""
        if self.channel is not None:
            with contextlib.suppress(OSError):
                self.channel.send(_COMMAND.pack(command, limit))

    def answers(self) -> Iterator[tuple[bytes, int, float]]:
        """What it has answered."""
        while self.channel is not None:
            try:
                packet = self.channel.recv(_ANSWER.size)
            except OSError:
                return
            if len(packet) != _ANSWER.size:
                return
            yield _ANSWER.unpack(packet)

    def hang_up(self) -> None:
        """Close the channel: the process thaws what may be left, and ends."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def close(self) -> None:
        """Let go of everything."""
        self.hang_up()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Hold:
    """The file systems of one cycle.

    Args:
        cycle: its id.
    """

    def __init__(self, cycle: str) -> None:
        self.cycle = cycle
        self.children: list[Child] = []
        self.stage = "prepared"
        """`prepared`, `freezing`, `frozen`, `thawing`."""
        self.wave = 0
        """The wave that is being frozen, or thawed."""
        self.wave_due = 0.0
        """When the thaw goes on to the next wave."""
        self.due: float | None = None
        """When everything is thawed in any case."""
        self.tolerates = False
        """Whether a file system that has no freeze is left out."""

    @property
    def last_wave(self) -> int:
        """The number of the wave that is frozen last."""
        return max((child.wave for child in self.children), default=0)

    def of_wave(self) -> list[Child]:
        """Those of the wave that is under way."""
        return [child for child in self.children if child.wave == self.wave]


class Guardian:
    """Carries out what the broker says until it is gone, and thaws.

    Args:
        channel: to the broker.
        directory: the runtime directory.
    """

    def __init__(self, channel: socket.socket, directory: int) -> None:
        channel.setblocking(False)
        self._channel: socket.socket | None = channel
        self._directory = directory
        self._hold: Hold | None = None
        self._ending: dict[int, int] = {}
        """Children that have nothing to do any more, by process id."""
        self._outbox: deque[bytes] = deque()
        self._wake, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def run(self) -> None:
        """Until the broker is gone and nothing is frozen."""
        while self._channel is not None or self._hold is not None:
            ready = self._poll()
            self._ring(time.monotonic())
            if self._hold is not None:
                for index, child in enumerate(self._hold.children):
                    if child.channel is not None and child.channel.fileno() in ready:
                        self._hear_child(self._hold, index, child)
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._reap()
            if self._channel is not None and self._channel.fileno() in ready:
                self._hear_broker(self._channel)
            self._flush()
        with contextlib.suppress(OSError):
            os.unlink(RECORD, dir_fd=self._directory)

    def _poll(self) -> set[int]:
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if self._channel is not None:
            poller.register(self._channel, select.POLLIN | (select.POLLOUT if self._outbox else 0))
        for child in self._hold.children if self._hold is not None else ():
            if child.channel is not None:
                poller.register(child.channel, select.POLLIN)
        next_due = self._next_due()
        wait = None if next_due is None else max(0.0, next_due - time.monotonic()) * 1000
        return {descriptor for descriptor, _ in poller.poll(wait)}

    def _next_due(self) -> float | None:
        hold = self._hold
        if hold is None:
            return None
        dues = [child.not_before for child in hold.children if child.pid == 0 and not child.is_thawed]
        if hold.due is not None:
            dues.append(hold.due)
        if hold.stage == "thawing" and hold.wave > 0:
            dues.append(hold.wave_due)
        return min(dues, default=None)

    # -- time

    def _ring(self, now: float) -> None:
        """What is due."""
        hold = self._hold
        if hold is None:
            return
        if hold.due is not None and now >= hold.due:
            self._say(hold, "expired")
            self._thaw(hold)
        if hold.stage == "thawing" and now >= hold.wave_due:
            self._thaw_next_wave(hold)
        for index, child in enumerate(hold.children):
            if child.pid == 0 and not child.is_thawed and now >= child.not_before:
                self._replace(hold, index, child)

    # -- the broker

    def _hear_broker(self, channel: socket.socket) -> None:
        room = socket.CMSG_SPACE(array.array("i").itemsize)
        for _ in range(_MOST_PACKETS):
            try:
                packet, ancillary, _, _ = channel.recvmsg(PACKET_LIMIT, room, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:  # it died with words of ours unread
                packet, ancillary = b"", []
            if not packet:
                self._lose_broker()
                return
            descriptors = array.array("i")
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.frombytes(content[: len(content) // descriptors.itemsize * descriptors.itemsize])
            self._obey(json.loads(packet), descriptors[0] if descriptors else -1)

    def _lose_broker(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._outbox.clear()
        if self._hold is not None:
            self._thaw(self._hold)

    def _obey(self, message: dict[str, Any], descriptor: int) -> None:
        hold, cycle, command = self._hold, str(message["cycle"]), message["do"]
        if command != "open" and descriptor >= 0:
            os.close(descriptor)
        if command == "open":
            self._open(cycle, int(message["wave"]), descriptor)
        elif hold is None or hold.cycle != cycle:
            if command == "thaw":
                self._queue({"said": "done", "cycle": cycle})
        elif command == "sync":
            for child in hold.children:
                child.owes_sync = True
                child.tell(b"s")
        elif command == "freeze" and hold.stage == "prepared":
            hold.stage, hold.tolerates = "freezing", bool(message["tolerates"])
            hold.due = time.monotonic() + float(message["limit"])
            self._freeze_wave(hold)
        elif command == "thaw" and hold.stage == "thawing":
            self._say(hold, "thawing")  # it is asked whether anybody is at work
        elif command == "thaw":
            self._thaw(hold)

    def _open(self, cycle: str, wave: int, descriptor: int) -> None:
        hold = self._hold
        if hold is None:
            hold = self._hold = Hold(cycle)
        if descriptor < 0 or hold.cycle != cycle or hold.stage != "prepared":
            raise ValueError(f"cycle {cycle} opens a file system, and {hold.cycle} is {hold.stage}")
        child = Child(wave, descriptor)
        hold.children.append(child)
        self._start(hold, child)

    # -- freeze and thaw

    def _freeze_wave(self, hold: Hold) -> None:
        assert hold.due is not None  # noqa: S101 - it is set before the first wave
        left = hold.due - time.monotonic() + CHILD_GRACE
        for index, child in enumerate(hold.children):
            if child.wave != hold.wave:
                continue
            if child.pid == 0:  # there is nobody to hear it
                self._say(hold, "frozen", target=index, errno=DIED, took=0.0)
                self._hear_freeze(hold, child, DIED)
                return
            child.is_asked_to_freeze = True
            child.tell(b"f", left)

    def _hear_freeze(self, hold: Hold, child: Child, number: int) -> None:
        child.freeze = number
        if hold.stage != "freezing":
            return
        if number and not (number == errno.EOPNOTSUPP and hold.tolerates):
            self._thaw(hold)
        elif all(other.freeze is not None for other in hold.of_wave()):
            if hold.wave == hold.last_wave:
                hold.stage = "frozen"
                self._say(hold, "held")
            else:
                hold.wave += 1
                self._freeze_wave(hold)

    def _thaw(self, hold: Hold) -> None:
        """Begin the thaw; it cannot be called back."""
        if hold.stage == "thawing":
            return
        hold.stage, hold.due = "thawing", None
        self._say(hold, "thawing")
        hold.wave = hold.last_wave + 1
        self._thaw_next_wave(hold)

    def _thaw_next_wave(self, hold: Hold) -> None:
        while hold.wave > 0:
            hold.wave -= 1
            hold.wave_due = time.monotonic() + WAVE_PAUSE
            for child in hold.of_wave():
                child.is_asked_to_thaw = True
                child.tell(b"t")
            if any(child.may_be_ours for child in hold.of_wave()):
                return

    def _hear_thaw(self, hold: Hold, index: int, child: Child, number: int, took: float) -> None:
        child.is_thawed = True
        if number == errno.EINVAL and (child.was_thawing or child.freeze == DIED):
            number = 0  # a former process had done it, or had nothing to do
        self._say(hold, "thawed", target=index, errno=number, took=took)
        self._ending[child.pid] = index
        child.close()
        if all(other.is_thawed for other in hold.children):
            self._finish(hold)
        elif not any(other.may_be_ours for other in hold.of_wave()):
            self._thaw_next_wave(hold)

    def _finish(self, hold: Hold) -> None:
        self._hold = None
        self._say(hold, "done")

    # -- children

    def _start(self, hold: Hold, child: Child) -> None:
        """Give a file system its process. Without one it is tried again a moment later."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return
        try:
            child.pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return
        if child.pid == 0:
            self._become(hold, child, ours, theirs)
        theirs.close()
        ours.setblocking(False)
        child.channel = ours

    def _become(self, hold: Hold, child: Child, ours: socket.socket, theirs: socket.socket) -> None:
        """In the child: keep its own two descriptors alone, so that every other sees the guardian's end; never return.

        The runtime directory stays open: its lock tells that somebody may still thaw (`guardian_process`).
        """
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            lock_memory()  # locks are not inherited
            tender = Tender(theirs, child.descriptor, child.may_be_ours, _plus(hold.due, CHILD_GRACE))
            ours.close()
            for other in hold.children:
                if other is not child:
                    other.close()
            if self._channel is not None:
                self._channel.close()
            os.close(self._wake)
            os.close(self._wake_write)
            tender.run()
        finally:
            os._exit(0)

    def _hear_child(self, hold: Hold, index: int, child: Child) -> None:
        for command, number, took in child.answers():
            if command == b"s":
                child.owes_sync = False
                self._say(hold, "synced", target=index, errno=number, took=took)
            elif command == b"f":
                self._say(hold, "frozen", target=index, errno=number, took=took)
                self._hear_freeze(hold, child, number)
            else:
                self._hear_thaw(hold, index, child, number, took)
                return

    def _reap(self) -> None:
        """Look which children have ended, and which were stopped: they must not be."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                os.kill(pid, signal.SIGCONT)
            elif pid in self._ending:
                del self._ending[pid]
            else:
                self._lose_child(pid)

    def _lose_child(self, pid: int) -> None:
        hold = self._hold
        index = next((index for index, child in enumerate(hold.children) if child.pid == pid), -1) if hold else -1
        if hold is None or index < 0:
            return
        child = hold.children[index]
        self._hear_child(hold, index, child)  # its last words
        if child.is_thawed:
            self._ending.pop(pid, None)
            return
        child.hang_up()
        child.pid = 0
        self._replace(hold, index, child)
        if child.is_asked_to_freeze and child.freeze is None:
            # It was killed over the freeze, which has then been completed (section 5.1), or was refused.
            self._say(hold, "frozen", target=index, errno=DIED, took=0.0)
            self._hear_freeze(hold, child, DIED)

    def _replace(self, hold: Hold, index: int, child: Child) -> None:
        """Another process for a file system whose process died."""
        now = time.monotonic()
        if now < child.not_before:
            return
        child.not_before = now + _RESTART_PAUSE
        self._start(hold, child)
        if child.pid == 0:
            return
        self._say(hold, "replaced", target=index)
        if child.is_asked_to_thaw:
            child.was_thawing = True
            child.tell(b"t")
        elif child.owes_sync:
            child.tell(b"s")

    # -- words

    def _say(self, hold: Hold, said: str, **more: float) -> None:
        self._queue({"said": said, "cycle": hold.cycle, **more})

    def _queue(self, message: dict[str, Any]) -> None:
        """A broker that is stopped does not read: then it waits here. A cycle has only so many words."""
        if self._channel is not None:
            self._outbox.append(json.dumps(message).encode())
            self._flush()

    def _flush(self) -> None:
        while self._outbox and self._channel is not None:
            try:
                self._channel.send(self._outbox[0])
            except BlockingIOError:
                return
            except OSError:
                self._outbox.clear()  # the broker is gone; its end is read elsewhere
                return
            self._outbox.popleft()

    def greet(self, locked: int, protected: int) -> None:
        """Tell that the guardian is ready, and what the kernel has not granted."""
        self._queue({"said": "ready", "cycle": "", "pid": os.getpid(), "locked": locked, "protected": protected})

    def complain(self, reason: str) -> None:
        """The last word: why it ends before its time."""
        self._queue({"said": "failed", "cycle": "", "reason": reason[:500]})


def _plus(instant: float | None, seconds: float) -> float | None:
    return None if instant is None else instant + seconds


def lock_memory() -> int:
    """Keep this process in memory; zero, or the errno of the refusal.

    Under a limit, what is allocated later stays free to go: beyond the limit nothing at all could be allocated.
    """
    flags = _MCL_CURRENT | _MCL_ONFAULT
    if may_lock_all():
        flags |= _MCL_FUTURE
    return ctypes.get_errno() if _mlockall(flags) else 0


def may_lock_all() -> bool:
    """Whether the kernel sets this process no limit of locked memory."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


def spare_from_oom() -> int:
    """Keep the kernel from killing this process and its children for memory; zero, or the errno of the refusal."""
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        os.write(descriptor, b"-1000")
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(descriptor)
    return 0


def main(channel_number: int, directory: int) -> None:
    """Guard until the broker is gone. Whatever goes wrong in here ends the process, and with it every child's hold."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):  # two descriptors for each file system
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    guardian = Guardian(socket.socket(fileno=channel_number), directory)
    guardian.greet(lock_memory(), spare_from_oom())
    try:
        guardian.run()
    except Exception as error:
        guardian.complain(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
