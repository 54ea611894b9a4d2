"""What lies in an image comes before what carries the image, whatever lies on what."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from appvss.freezer.dependency import Dependencies, Image
from appvss.freezer.order import waves

DEVICES = [f"8:{minor}" for minor in range(9)]


def dependencies(edges: Mapping[str, list[str]]) -> Dependencies:
    return Dependencies(tuple(Image(b"/i", carried, on) for carried, carriers in edges.items() for on in carriers))


def order(edges: Mapping[str, list[str]], devices: list[str], untold: tuple[str, ...] = (), root: str = "") -> object:
    closure = {device: dependencies(edges).carriers_of(device) for device in devices}
    return waves(devices, closure, untold, root)


def test_what_is_independent_is_frozen_together() -> None:
    assert order({}, ["8:1", "8:2", "8:1"]) == (("8:1", "8:2"),)
    assert order({}, []) == ()


def test_the_root_comes_last_and_alone() -> None:
    assert order({}, ["8:1", "8:2", "8:3"], root="8:1") == (("8:2", "8:3"), ("8:1",))
    assert order({"8:2": ["8:1"]}, ["8:1", "8:2"], root="8:1") == (("8:2",), ("8:1",))


def test_only_what_carries_the_root_comes_after_it() -> None:
    edges = {"7:0": ["8:1"], "8:1": ["8:2"]}
    assert order(edges, ["8:1", "8:2", "8:3", "7:0"], root="7:0") == (("8:3",), ("7:0",), ("8:1",), ("8:2",))


def test_an_image_in_an_image_counts_also_when_the_one_between_is_not_frozen() -> None:
    assert order({"7:1": ["7:0"], "7:0": ["8:1"]}, ["8:1", "7:1"]) == (("7:1",), ("8:1",))


def test_what_nobody_can_tell_comes_first_but_for_the_root() -> None:
    assert order({}, ["8:1", "43:0"], ("43:0",)) == (("43:0",), ("8:1",))
    assert order({}, ["8:1", "43:0"], ("43:0",), root="43:0") == (("8:1",), ("43:0",))
    edges = {"7:0": ["43:0"]}
    assert order(edges, ["8:1", "43:0", "7:0"], ("43:0",)) == (("7:0",), ("43:0",), ("8:1",))
    assert order({"8:1": ["43:0"]}, ["8:1", "43:0", "8:2"], ("43:0",), root="8:1") == (("8:2",), ("8:1",), ("43:0",))


def test_a_circle_is_in_the_order_too() -> None:
    edges = {"8:1": ["8:2"], "8:2": ["8:1", "8:3"], "8:4": ["8:1"], "8:5": ["8:5"]}
    found = order(edges, ["8:1", "8:2", "8:3", "8:4", "8:5"])
    assert found == (("8:4", "8:5"), ("8:1", "8:2"), ("8:3",))


@given(
    st.dictionaries(st.sampled_from(DEVICES), st.lists(st.sampled_from(DEVICES), max_size=3)),
    st.lists(st.sampled_from(DEVICES)),
    st.sets(st.sampled_from(DEVICES), max_size=2),
    st.sampled_from([*DEVICES, ""]),
)
def test_each_comes_once_and_before_all_that_carry_it(
    edges: dict[str, list[str]], devices: list[str], untold: set[str], root: str
) -> None:
    closure = {device: dependencies(edges).carriers_of(device) for device in devices}
    found = waves(devices, closure, untold, root if root in devices else "")
    assert all(found), "no wave is empty"
    assert sorted(device for wave in found for device in wave) == sorted(set(devices))
    at = {device: number for number, wave in enumerate(found) for device in wave}
    for device in at:
        for carrier in closure[device] & at.keys() - {device}:
            if device not in closure[carrier]:
                assert at[device] < at[carrier], (device, carrier)
    if root in at:
        assert len(found[at[root]]) == 1 or root in closure[root]
        assert {device for device in at if at[device] > at[root]} <= closure[root]
