"""The driver of 3.10 to 4.1: it has one flag, "a transaction is active", which is set when it starts. Pure."""

from __future__ import annotations

import errno
from collections.abc import Callable

from appvss.simulator.clock import Moment
from appvss.simulator.event import EventKind
from appvss.simulator.hyperv import HostStatus
from appvss.simulator.linux_netlink.driver import FORWARDED, DriverState, NetlinkDriver
from appvss.simulator.linux_netlink.kernel import NetlinkKernel
from appvss.sources.wire.linux_hv_vss import MESSAGE_SIZE, REGISTER_LEGACY, status_of


class FirstDriver(NetlinkDriver):
    """The driver of 3.10 to 4.1."""

    def __init__(self, kernel: NetlinkKernel, multicast: Callable[[bytes], bool]) -> None:
        super().__init__(kernel, multicast)
        self._active = True
        """Set from the start: until somebody registers, even the host's negotiation waits."""

    def state(self) -> DriverState:
        """A look at everything."""
        condition = "active" if self._active else "idle"
        return DriverState(condition, "netlink", self._operation(), len(self._ring))

    def _interrupt(self, moment: Moment) -> None:
        if self._active or not self._ring:
            return
        operation = self._begin(self._ring.popleft(), moment)
        if operation is None:
            return
        self._active = True
        if operation not in FORWARDED:
            self._active = False
            self._answer_alone(operation, moment)
        elif not self._send(operation, moment) and self._kernel.has_timer:
            # The oldest ignores this, and its transaction stays open until somebody registers.
            self._active = False
            self._fail_to_send(errno.ESRCH, moment)

    def _time_out(self, moment: Moment) -> None:
        if self._active and self._transaction is not None:
            self._finish(HostStatus.FAIL, moment)

    def _take(self, payload: bytes, moment: Moment, sender: str) -> None:
        message = payload.ljust(MESSAGE_SIZE, b"\0")
        if message[0] == REGISTER_LEGACY:
            self._say(EventKind.REGISTERED, moment, detail=f"{sender}: 128")
            # What was open is forgotten, and its timer is not: it will end whatever is open then.
            self._active, self._transaction = False, None
            self._interrupt(moment)
        elif not self._active or self._transaction is None:
            self._say(EventKind.WRITE_IGNORED, moment, detail=f"{sender}: transaction not active")
        else:
            status = status_of(message[:MESSAGE_SIZE])
            self._say(EventKind.WROTE, moment, operation=self._operation(), status=status, detail=sender)
            self._finish(status, moment)

    def _finish(self, status: int, moment: Moment) -> None:
        self._active, self._timer = False, None
        self._respond(status, moment)
        if self._kernel.has_timer:  # the oldest waits for the host's next interrupt
            self._interrupt(moment)
