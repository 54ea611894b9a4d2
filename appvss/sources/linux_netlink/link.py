"""One registration with the driver, from joining its group until it is lost. Everything runs on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

from appvss.model.instant import Instant
from appvss.model.request import Request, RequestKind
from appvss.sources.base import Clock
from appvss.sources.device_thread import Arrived, Lapsed, News, Silence, Unasked
from appvss.sources.linux_netlink.channel import MOST_READS, NetlinkChannel, Overrun, Received
from appvss.sources.linux_netlink.complaints import Complaints
from appvss.sources.linux_netlink.profile import Profile
from appvss.sources.linux_vss.ledger import PASSED_ON, Ledger, Reply, TooLate, Unheard
from appvss.sources.wire.linux_hv_vss import FAILURE, Asked, Handshake, decode, encode_registration, encode_reply

PULSE: Final = timedelta(milliseconds=500)
"""How often the socket is looked at although nothing has come, to know how old what comes can be at most."""
_STALL: Final = 1.5
"""After how many pulses without one this process has been stopped, and a request may be as old as the last pulse. What
is less, the margin has room for: a second at least lies between the last answer and the driver's limit."""
_MOST_ROUNDS: Final = 8
"""How often `MOST_READS` datagrams are read before an answer is sent: more than a socket holds."""

_logger = logging.getLogger("appvss.sources.linux_netlink")


@dataclass(frozen=True, slots=True)
class Confirmed:
    """News: the driver has answered the registration."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """News: somebody else seems to serve the driver, too."""

    reason: str


LinkNews: TypeAlias = News | Confirmed | Suspicion


class NetlinkLink:
    """The driver's requests and our answers.

    A reply names no request: the driver takes whatever comes for the answer to what it has open, and says nothing of
    what it does not take (facts/linux-hv-vss.md section 0 fact 1, section 3.3). So a reply goes out only while the
    request that it is for is certainly still the driver's:

    - While the ledger is sure, that is, within the driver's limit. After that, a driver with a timer has told the host
      already that the request failed, or is about to, and is ready for the next one by itself: to send nothing is safe,
      and nothing else is. To register again would not help: from 4.2 on it is refused while a request is open, and
      before 4.2 it makes the driver forget the request but not its timer, which then ends the next one.
    - A driver without a timer (3.10 to 3.18) waits for ever and takes no other request of the host. It is told late,
      too, and always that it failed: whatever the request is, nobody has kept its time. To register again would free
      it as well, but the host would never hear of its request.
    - What has come is read before anything is sent: if there is another request, the former one is over, whoever has
      ended it.

    Args:
        channel: open; closed by `close`.
        ledger: with nothing open: what an earlier registration left unanswered is not ours to answer.
        profile: the driver's ways.
        kernel_portid: the only sender that is believed.
        clock: the machine's.
        tell: takes the news. It may call `answer`.
        pulse: how often the socket is looked at although nothing has come.
    """

    def __init__(
        self,
        channel: NetlinkChannel,
        ledger: Ledger,
        profile: Profile,
        kernel_portid: int,
        clock: Clock,
        tell: Callable[[LinkNews], None],
        *,
        pulse: timedelta = PULSE,
    ) -> None:
        self._channel = channel
        self._ledger = ledger
        self._profile = profile
        self._kernel = kernel_portid
        self._clock = clock
        self._tell = tell
        self._pulse = pulse
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[tuple[Handshake | Asked, Instant]] = deque()
        """What has been read and is not handled yet, with the earliest instant at which it may have been sent."""
        self._strangers = Complaints()
        self._awaits_confirmation = False
        self._looked = clock.now()
        """When nothing was waiting for the last time."""
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[str] = self._loop.create_future()
        """Done when the driver cannot be served over this socket any more; the result says why."""

    @property
    def portid(self) -> int:
        """Ours."""
        return self._channel.portid

    def start(self) -> None:
        """Listen, then register.

        Raises:
            SourceError: the registration cannot be sent.
        """
        self._loop.add_reader(self._channel.fileno(), self._readable)
        self._beat()
        self._awaits_confirmation = self._profile.confirms
        self._channel.register(encode_registration(self._profile.registration))

    def answer(self, identity: str, *, go_on: bool) -> None:
        """Send the answer to a request, unless that is not safe any more; then it is only logged."""
        if self._is_overtaken():
            _logger.warning("the answer to request %s is not sent: another request has come", identity)
        else:
            self._carry_out(identity, self._ledger.settle(identity, go_on=go_on, now=self._clock.now()))

    def close(self) -> None:
        """Tell the driver that what is open has failed, where that is safe, and close the socket."""
        self._take_in(_MOST_ROUNDS)
        if not self.lost.done():
            for message, since in self._arrived:
                if isinstance(message, Asked) and message.operation in PASSED_ON:
                    self._ledger.admit(message.operation, since)
            if self._ledger.open is not None:
                identity = self._ledger.open.id
                self._carry_out(identity, self._ledger.settle(identity, go_on=False, now=self._clock.now()))
        self._loop.remove_reader(self._channel.fileno())
        for timer in (self._timer, self._expiry):
            if timer is not None:
                timer.cancel()
        self._channel.close()

    def _is_overtaken(self) -> bool:
        """Whether a request has come since the one that is open."""
        self._take_in(_MOST_ROUNDS)
        if self._arrived:
            self._loop.call_soon(self._handle_arrived)
        return any(isinstance(message, Asked) for message, _ in self._arrived)

    def _carry_out(self, identity: str, outcome: Reply | TooLate | Unheard | Silence | None) -> None:
        match outcome:
            case None:
                return
            case Reply(request, status):
                self._reply(status)
                if request.kind is RequestKind.THAW and self._profile.tells_of_hibernation:
                    # That may have been the thaw of a hibernation, and nobody says so: the host's own is yet to come.
                    self._ledger.refused_thaw()
            case Unheard(request):
                self._lapse(request, f"the broker agrees to the {request.kind} after it was refused")
            case TooLate(request):
                if not self._profile.has_timer:
                    self._reply(FAILURE)
                self._lapse(request, f"the answer to the {request.kind} comes so late that it might answer another")
            case Silence(reason):
                _logger.warning("the answer to request %s is not sent: %s", identity, reason)

    def _expire(self) -> None:
        """Refuse what is open, if the broker has let its time pass."""
        request = self._ledger.open
        if request is not None and not self._is_overtaken():
            self._carry_out(request.id, self._ledger.expire(self._clock.now()))

    def _lapse(self, request: Request, reason: str) -> None:
        """The host hears, or has heard, that it failed: no thaw will come for what was frozen."""
        self._tell(Lapsed(request, reason) if request.kind is RequestKind.FREEZE else Unasked(reason))

    def _beat(self) -> None:
        """Look although nothing has come."""
        self._timer = self._loop.call_later(self._pulse.total_seconds(), self._beat)
        self._readable()
        self._expire()
        sentence = self._strangers.due(self._clock.now())
        if sentence:
            self._tell(Unasked(sentence))

    def _readable(self) -> None:
        self._take_in(1)
        self._handle_arrived()

    def _take_in(self, rounds: int) -> None:
        """Read what has come, at most so many times `MOST_READS` datagrams."""
        now = self._clock.now()
        stopped = now - self._looked > _STALL * self._pulse
        since = self._looked if stopped else now
        for _ in range(rounds):
            if self.lost.done():
                return
            try:
                received = self._channel.receive()
            except Overrun:
                self._lose("the kernel had no room for what came over netlink: a request may be lost")
                return
            except OSError as error:
                self._lose(f"the netlink socket fails: {error.strerror}")
                return
            for datagram in received:
                self._sort(datagram, now, since)
            if len(received) < MOST_READS:
                self._looked = now
                return

    def _sort(self, datagram: Received, now: Instant, since: Instant) -> None:
        if datagram.portid == self._kernel and datagram.payload:
            self._arrived.append((decode(datagram.payload), since))
            return
        sentence = self._strangers.add(datagram.portid, datagram.reason or "it is not the driver", now)
        if sentence:
            self._tell(Unasked(sentence))
        if datagram.payload:
            self._tell(Suspicion(f"port id {datagram.portid} speaks to the driver, too"))

    def _handle_arrived(self) -> None:
        while self._arrived and not self.lost.done():
            message, since = self._arrived.popleft()
            if isinstance(message, Asked):
                self._admit(message, since)
            elif self._awaits_confirmation:
                self._awaits_confirmation = False
                self._tell(Confirmed())
            else:
                self._tell(Suspicion("somebody else has registered with the driver"))

    def _admit(self, asked: Asked, since: Instant) -> None:
        former = self._ledger.give_up()
        if former is not None:
            self._lapse(former, f"the driver has given up the {former.kind} and asks for something else")
        if asked.operation not in PASSED_ON:
            self._tell(Unasked(f"operation {asked.number} is refused: this broker does not know it"))
            self._reply(FAILURE)
            return
        request, now = self._ledger.admit(asked.operation, since), self._clock.now()
        if now >= request.deadline and request.kind is not RequestKind.THAW:
            self._tell(Unasked(f"a {request.kind} came too late to be asked: this process was stopped"))
            self._carry_out(request.id, self._ledger.settle(request.id, go_on=False, now=now))
            return
        # A thaw is asked however late it is: the apps must go on, whether the host hears of it or not.
        if self._expiry is not None:
            self._expiry.cancel()
        left = (self._ledger.next_expiry() or now) - now
        self._expiry = self._loop.call_later(max(left, timedelta(0)).total_seconds(), self._expire)
        self._tell(Arrived(request))

    def _reply(self, status: int) -> None:
        try:
            self._channel.send(encode_reply(status))
        except OSError as error:
            self._lose(f"the reply cannot be sent: {error.strerror}")

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
            # A socket that keeps failing is readable for ever.
            self._loop.remove_reader(self._channel.fileno())
