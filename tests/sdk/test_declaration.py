"""What an author declares is checked before anything is opened."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss import contract
from appvss.model.app import HoldClaim, Requirement
from appvss.model.errors import AppvssError, NameInvalid, SocketPathTooLong, UsageError
from appvss.sdk.declaration import Declaration, declare

GIVEN: dict[str, Any] = {
    "name": "orders-db",
    "order": 50,
    "after": (),
    "requirement": "required",
    "freeze_timeout": None,
    "hold_limit": timedelta(seconds=60),
    "paths": (),
    "watch_paths": False,
    "grade": "app",
    "instance": "",
    "runtime_directory": "/run/appvss",
    "prepares": False,
}


def declared(**changed: Any) -> Declaration:
    return declare(**{**GIVEN, **changed})


@pytest.mark.parametrize(
    ("changed", "error", "sentence"),
    [
        ({"name": ""}, NameInvalid, "empty"),
        ({"name": 3}, UsageError, "name is 3, which is not text"),
        ({"name": "x" * 65}, NameInvalid, "65 characters"),
        ({"instance": "-eu"}, NameInvalid, "instance"),
        ({"order": "50"}, UsageError, "order is '50'"),
        ({"order": 2**31}, UsageError, "32 bits"),
        ({"after": "other"}, UsageError, "single text"),
        ({"after": ["x"] * 33}, UsageError, "33 names"),
        ({"after": [None]}, UsageError, "after is None"),
        ({"requirement": "optional"}, UsageError, "requirement is 'optional'"),
        ({"hold_limit": 60}, UsageError, "hold_limit is 60"),
        ({"hold_limit": timedelta(0)}, UsageError, "hold_limit is 0.0 s"),
        ({"freeze_timeout": timedelta(seconds=-1)}, UsageError, "freeze_timeout is -1.0 s"),
        ({"paths": "/var"}, UsageError, "single text"),
        ({"paths": ["/x"] * 65}, UsageError, "65 entries"),
        ({"paths": ["/" + "x" * 1024]}, UsageError, "1025 characters"),
        ({"paths": ["/" + "ä" * 1000] * 64}, UsageError, "the declaration has"),
        ({"runtime_directory": "/" + "x" * 100}, SocketPathTooLong, "bytes, over"),
        ({"watch_paths": "yes"}, UsageError, "watch_paths is 'yes'"),
        ({"grade": "raw"}, UsageError, "grade is 'raw'"),
        ({"grade": "app-verified"}, UsageError, "grade is 'app-verified'"),
        ({"grade": None}, UsageError, "grade is None"),
        ({"watch_paths": True}, UsageError, "paths is empty"),
        ({"watch_paths": True, "paths": ["data"]}, UsageError, "the path 'data' cannot be watched"),
        ({"watch_paths": True, "paths": ["/ok", "/data\n"]}, UsageError, "cannot be watched"),
        ({"watch_paths": True, "paths": [b"/\xff"]}, UsageError, "cannot be watched"),
    ],
)
def test_what_is_wrong_is_named(changed: dict[str, Any], error: type[AppvssError], sentence: str) -> None:
    with pytest.raises(error) as caught:
        declared(**changed)
    assert sentence in str(caught.value)
    assert caught.value.hint.endswith(".")


def test_the_hello_says_what_was_declared() -> None:
    declaration = declared(
        order=0,
        after=["a", "b"],
        requirement=Requirement.IGNORED,
        freeze_timeout=timedelta(seconds=2),
        paths=[Path("/var/lib"), b"/\xff"],
        instance="eu",
        prepares=True,
    )
    hello = declaration.hello(HoldClaim("c", timedelta(seconds=3))).hello
    heard = contract.registration_of(hello)
    assert heard.claim == HoldClaim("c", timedelta(seconds=3))
    assert (str(heard.app), heard.order, heard.after) == ("orders-db[eu]", 0, ("a", "b"))
    assert (heard.requirement, heard.prepares, heard.freeze_timeout) == ("ignored", True, timedelta(seconds=2))
    assert contract.paths_of(hello) == ("/var/lib", "/?")
    assert hello.protocol_versions == [1]
    assert hello.incarnation == declaration.hello().hello.incarnation
    assert len(hello.incarnation) in range(16, 65)
    assert not declaration.hello().hello.HasField("holding")


def test_the_hello_asks_for_the_watch() -> None:
    assert contract.registration_of(declared(watch_paths=True, paths=["/var/lib/orders"]).hello().hello).watch_paths
    assert not contract.registration_of(declared(paths=["/var/lib/orders"]).hello().hello).watch_paths


@pytest.mark.parametrize("grade", ["app", "fs"])
def test_the_hello_says_what_a_copy_is_worth(grade: str) -> None:
    assert contract.registration_of(declared(grade=grade).hello().hello).grade == grade


def test_the_sockets_lie_in_the_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert declared().apps_socket == "/run/appvss/apps.sock"
    assert declared().peer_socket == "/run/appvss/apps.peer.sock"
    monkeypatch.setenv("APPVSS_RUNTIME_DIRECTORY", "/elsewhere")
    assert declared(runtime_directory=None).apps_socket == "/elsewhere/apps.sock"


@given(name=st.text(max_size=80), instance=st.text(max_size=80), order=st.integers())
def test_whatever_is_given_is_declared_or_refused_in_words(name: str, instance: str, order: int) -> None:
    def declare_it() -> AppvssError | None:
        try:
            declaration = declared(name=name, instance=instance, order=order)
        except AppvssError as error:
            return error
        hello = declaration.hello().hello
        assert contract.registration_of(hello) == replace(declaration.registration, incarnation=hello.incarnation)
        return None

    refusal = declare_it()
    assert refusal is None or (refusal.sentence and refusal.hint)
