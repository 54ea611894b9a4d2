"""The driver since 4.2: it has states, and two ways to a daemon, of which one is in use at a time. Pure."""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import IntEnum, StrEnum

from appvss.simulator.clock import Moment
from appvss.simulator.event import EventKind
from appvss.simulator.hyperv import NO_AUTO_RECOVERY, HostOperation, HostStatus
from appvss.simulator.linux_netlink.driver import FORWARDED, DriverState, NetlinkDriver
from appvss.simulator.linux_netlink.kernel import NetlinkKernel
from appvss.sources.wire.linux_hv_vss import MESSAGE_SIZE, REGISTER, REGISTER_LEGACY, encode_handshake, status_of


class State(IntEnum):
    """Its states, as far as they can be seen from outside."""

    DEVICE_INIT = 0
    READY = 1
    USERSPACE_REQ = 3


class Mode(StrEnum):
    """Its ways to a daemon."""

    INIT = "init"
    NETLINK = "netlink"
    CHARDEV = "chardev"


class SecondDriver(NetlinkDriver):
    """The driver since 4.2."""

    def __init__(self, kernel: NetlinkKernel, multicast: Callable[[bytes], bool]) -> None:
        super().__init__(kernel, multicast)
        self._state = State.DEVICE_INIT
        self._mode = Mode.INIT

    def state(self) -> DriverState:
        """A look at everything."""
        return DriverState(self._state.name.lower(), self._mode, self._operation(), len(self._ring))

    def open_device(self, moment: Moment) -> None:
        """A program opens the character device: netlink is not listened to any more (section 1.3).

        Raises:
            OSError: EBUSY, it is open.
        """
        if self._mode is Mode.CHARDEV:
            raise OSError(errno.EBUSY, "the character device is open")
        if self._mode is Mode.NETLINK:
            self._reset(moment)
        self._mode = Mode.CHARDEV
        self._say(EventKind.OPENED, moment, detail="the character device")

    def close_device(self, moment: Moment) -> None:
        """The character device is closed: the next datagram switches back to netlink."""
        if self._mode is Mode.CHARDEV:
            self._reset(moment)
            self._mode = Mode.INIT
            self._say(EventKind.CLOSED, moment, detail="the character device")

    def _reset(self, moment: Moment) -> None:
        if self._state > State.READY:
            self._timer = None
            self._respond(HostStatus.FAIL, moment)
        self._state = State.DEVICE_INIT

    def _interrupt(self, moment: Moment) -> None:
        if self._state > State.READY or not self._ring:
            return
        operation = self._begin(self._ring.popleft(), moment)
        if operation is None:
            return
        if operation in FORWARDED or (operation == HostOperation.CHECK and self._kernel.asks_for_hot_backup):
            self._forward(operation, moment)
        else:
            self._answer_alone(operation, moment)
            self._state = State.READY
            self._interrupt(moment)

    def _forward(self, operation: int, moment: Moment) -> None:
        if self._state < State.READY:
            self._respond(HostStatus.FAIL, moment, detail="nobody has registered")
            return
        self._state = State.USERSPACE_REQ
        if self._mode is not Mode.NETLINK:
            self._state = State.READY
            self._fail_to_send(errno.EINVAL, moment)
        elif not self._send(operation, moment):
            self._state = State.READY
            self._fail_to_send(errno.ESRCH, moment)

    def _time_out(self, moment: Moment) -> None:
        self._respond(HostStatus.FAIL, moment)
        self._become_ready(moment)

    def _become_ready(self, moment: Moment) -> None:
        self._state = State.READY
        self._interrupt(moment)

    def _take(self, payload: bytes, moment: Moment, sender: str) -> None:
        if self._mode is Mode.CHARDEV:
            self._say(EventKind.WRITE_IGNORED, moment, detail=f"{sender}: unexpected netlink message")
            return
        self._mode = Mode.NETLINK
        if len(payload) != MESSAGE_SIZE:
            self._say(EventKind.WRITE_IGNORED, moment, detail=f"{sender}: a message of {len(payload)} bytes")
        elif payload[0] in (REGISTER, REGISTER_LEGACY):
            self._register(payload[0], moment, sender)
        elif self._state is not State.USERSPACE_REQ:
            self._say(EventKind.WRITE_IGNORED, moment, detail=f"{sender}: transaction not active")
        else:
            self._timer = None
            status = status_of(payload)
            self._say(EventKind.WROTE, moment, operation=self._operation(), status=status, detail=sender)
            # Meant for the reply to HOT_BACKUP, but a reply has its error where a request has its operation.
            flags = NO_AUTO_RECOVERY if payload[0] == HostOperation.CHECK else None
            self._respond(status, moment, flags=flags if self._kernel.asks_for_hot_backup else None)
            self._become_ready(moment)

    def _register(self, version: int, moment: Moment, sender: str) -> None:
        if self._state > State.READY:
            self._say(EventKind.WRITE_IGNORED, moment, detail=f"{sender}: registers during a transaction")
            return
        self._say(EventKind.REGISTERED, moment, detail=f"{sender}: {version}")
        if version == REGISTER_LEGACY:
            ready = self._kernel.is_ready_at_write
        else:
            # From 4.8 on it is ready as soon as the answer is sent, heard or not.
            ready = self._multicast(encode_handshake()) or not self._kernel.is_ready_at_write
        if ready:
            self._become_ready(moment)
