"""Who is behind an app."""

from __future__ import annotations

import os
import sys

import pytest

from appvss.cli import who
from appvss.model.app import Peer

NOBODY = Peer(4242424, 4242424, 4194400)


def test_a_user_has_a_name_or_a_number() -> None:
    assert who.user_name(0) == "root"
    assert who.user_name(NOBODY.uid) == "4242424"
    assert who.user_name(2**64) == str(2**64)


def test_an_app_without_identity_is_called_so_and_one_that_is_gone_has_no_service() -> None:
    assert who.who(None) == "unidentified"
    assert who.who(NOBODY) == "user 4242424, process 4194400"
    assert who.unit_of(NOBODY) == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="this looks at Linux's /proc")
def test_a_process_id_that_another_user_has_by_now_is_not_looked_at() -> None:
    assert who.is_alive(Peer(os.geteuid(), os.getegid(), os.getpid()))
    assert not who.is_alive(Peer(os.geteuid() + 1, os.getegid(), os.getpid()))


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/postgresql.service\n", "postgresql.service"),
        ("0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n", "postgresql@15-main.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/deep\n", "web.service"),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", ""),
        ("12:cpu:/system.slice/a.service\n1:name=systemd:/system.slice/b.service\n", "b.service"),
        ("", ""),
    ],
)
def test_the_service_is_the_innermost_one_of_its_control_group(text: str, unit: str) -> None:
    assert who.unit_in(text) == unit


def test_the_command_that_shows_a_process_names_it() -> None:
    assert who.look(NOBODY).endswith("-p 4194400`.")
