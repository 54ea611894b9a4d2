"""Who apps are and what they declare."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.model.app import DEFAULT_HOLD_LIMIT, DEFAULT_ORDER, AppId, Registration, Requirement
from appvss.model.errors import NameInvalid


def test_an_app_is_its_name_and_its_instance() -> None:
    assert (str(AppId("db")), str(AppId("db", "main"))) == ("db", "db[main]")
    assert AppId("db") == AppId("db", "")
    assert sorted([AppId("db", "2"), AppId("a", "9"), AppId("db")]) == [AppId("a", "9"), AppId("db"), AppId("db", "2")]


def test_apps_that_are_equal_are_one_key() -> None:
    assert {AppId("db"): 1, AppId("db", ""): 2, AppId("db", "2"): 3} == {AppId("db"): 2, AppId("db", "2"): 3}


@pytest.mark.parametrize(("name", "instance"), [("", ""), ("a b", ""), ("db", "x\n"), ("-a", ""), ("db", "\x1b[2J")])
def test_a_name_that_may_not_be_used_makes_no_app(name: str, instance: str) -> None:
    with pytest.raises(NameInvalid):
        AppId(name, instance)


def test_the_error_says_which_of_the_two_is_wrong() -> None:
    with pytest.raises(NameInvalid, match="the instance 'x y'"):
        AppId("db", "x y")


def test_an_app_that_declares_nothing_is_required_and_in_the_middle() -> None:
    registration = Registration(AppId("db"))
    assert (registration.order, registration.hold_limit) == (DEFAULT_ORDER, DEFAULT_HOLD_LIMIT)
    assert (50, timedelta(seconds=60)) == (DEFAULT_ORDER, DEFAULT_HOLD_LIMIT)
    assert registration.requirement is Requirement.REQUIRED
    assert (registration.after, registration.prepares, registration.freeze_timeout, registration.claim) == (
        (),
        False,
        None,
        None,
    )
