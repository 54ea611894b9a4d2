"""The rule for devd(8): its grammar, and what it does with the kernel's words about devices (devd.conf(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from appvss.broker.source_options import FreebsdOptions
from tests.packaging.unit import PACKAGING

FILE = PACKAGING / "freebsd" / "appvss.devd.conf"
BASE = """
notify 11 {
    match "system" "DEVFS"; match "subsystem" "CDEV"; match "type" "CREATE"; match "cdev" "hv_fsvss_dev";
    action "/usr/sbin/hv_vss_daemon";
};
notify 11 {
    match "system" "DEVFS"; match "subsystem" "CDEV"; match "type" "DESTROY"; match "cdev" "hv_fsvss_dev";
    action "pkill -x hv_vss_daemon";
};
"""
"""What FreeBSD's own hyperv.conf says about the other device (facts/freebsd-vss.md section 6.1)."""
_TOKEN = re.compile(r'\s*(?:#[^\n]*\n|(?P<text>"[^"\n]*")|(?P<word>[\w-]+)|(?P<sign>[{};]))')


@dataclass(frozen=True)
class Rule:
    """One statement."""

    priority: int
    matches: tuple[tuple[str, str], ...]
    action: str

    def takes(self, event: dict[str, str]) -> bool:
        """Whether an event is its business: devd anchors each expression at both ends."""
        return all(re.fullmatch(value, event.get(name, "")) for name, value in self.matches)


def tokens(text: str) -> Iterator[str]:
    place = 0
    text = text.rstrip() + "\n"
    while text[place:].strip():
        found = _TOKEN.match(text, place)
        assert found, f"not a token: {text[place : place + 40]!r}"
        place = found.end()
        if token := found["text"] or found["word"] or found["sign"]:
            yield token


def rules(text: str) -> list[Rule]:
    """The statements of a file, or an AssertionError."""
    stream = tokens(text)
    found = []
    for token in stream:
        assert token == "notify", token
        priority = int(next(stream))
        assert next(stream) == "{"
        matches, action = [], ""
        while (word := next(stream)) != "}":
            if word == "match":
                matches.append((next(stream).strip('"'), next(stream).strip('"')))
            else:
                assert (word, action) == ("action", "")
                action = next(stream).strip('"')
            assert next(stream) == ";"
        assert next(stream) == ";"
        assert matches
        assert action
        found.append(Rule(priority, tuple(matches), action))
    return found


def actions(event: dict[str, str]) -> list[str]:
    """What devd does: the first rule that takes the event, in the order of priority."""
    ordered = sorted(rules(BASE) + rules(FILE.read_text()), key=lambda rule: -rule.priority)
    return [rule.action for rule in ordered if rule.takes(event)][:1]


def device(kind: str, name: str) -> dict[str, str]:
    return {"system": "DEVFS", "subsystem": "CDEV", "type": kind, "cdev": name}


def test_the_broker_is_started_when_its_device_appears() -> None:
    assert actions(device("CREATE", FreebsdOptions().device.name)) == ["service appvss_broker quietstart"]


def test_nothing_is_done_when_it_goes_away() -> None:
    assert actions(device("DESTROY", FreebsdOptions().device.name)) == []


def test_the_other_device_stays_with_the_base_system() -> None:
    assert actions(device("CREATE", "hv_fsvss_dev")) == ["/usr/sbin/hv_vss_daemon"]
    assert actions(device("DESTROY", "hv_fsvss_dev")) == ["pkill -x hv_vss_daemon"]


def test_the_service_is_the_one_of_our_script() -> None:
    (rule,) = rules(FILE.read_text())
    command, name, verb = rule.action.split()
    assert (command, verb) == ("service", "quietstart")
    assert (PACKAGING / "freebsd" / name).exists()


@pytest.mark.parametrize(
    ("right", "wrong"), [("};", "}"), ("notify 10", "notify"), ('"CDEV";', '"CDEV"'), ('"DEVFS"', '"DEVFS')]
)
def test_a_slip_is_found(right: str, wrong: str) -> None:
    text = FILE.read_text()
    assert right in text
    with pytest.raises((AssertionError, ValueError, StopIteration, RuntimeError)):
        rules(text.replace(right, wrong))
