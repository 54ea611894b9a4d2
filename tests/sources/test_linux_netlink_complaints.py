"""However much strangers send, little is said, and nothing is left out of the count."""

from __future__ import annotations

from datetime import timedelta

from appvss.model.instant import Instant
from appvss.sources.linux_netlink.complaints import INTERVAL, Complaints

START = Instant(timedelta(hours=7))


def test_the_first_is_said_at_once() -> None:
    complaints = Complaints()
    assert complaints.add(7, "it is not the driver", START) == (
        "1 datagram is not believed, 1 since the start, the last from port id 7: it is not the driver"
    )
    assert complaints.due(START + 2 * INTERVAL) == ""


def test_more_are_said_together_when_it_is_time() -> None:
    complaints = Complaints()
    complaints.add(7, "one", START)
    said = [complaints.add(8, "two", START + timedelta(milliseconds=10 * number)) for number in range(1000)]
    assert set(said) == {""}
    assert complaints.due(START + INTERVAL) == (
        "1000 datagrams are not believed, 1001 since the start, the last from port id 8: two"
    )
    assert complaints.due(START + 3 * INTERVAL) == ""
    assert complaints.total == 1001
    assert complaints.add(9, "three", START + 4 * INTERVAL).startswith("1 datagram is not believed, 1002 since")
