"""The adapter for OpenLDAP, against a real slapd."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme

from appvss.adapters import openldap, undo
from appvss.adapters.base import AutoRelease, Severity
from appvss.adapters.errors import (
    HoldRefused,
    LoginRefused,
    PrivilegeMissing,
    ServerUnfit,
    ServerUnreachable,
    SettingInvalid,
)
from appvss.adapters.openldap import directory as wire
from appvss.adapters.openldap.settings import Recipe, Settings
from appvss.adapters.settings import Secret
from appvss.model.errors import HoldLost
from appvss.sdk.freeze import Freeze
from tests.adapters.private_slapd import BOUND, ROOT_DN, ROOT_PASSWORD, SUFFIX, Slapd, private_slapd
from tests.adapters.redis_stage import free_port
from tests.support.memory_directory import in_memory, memory

__all__ = ["memory"]

with warnings.catch_warnings():  # of its own use of pyasn1
    warnings.simplefilter("ignore", DeprecationWarning)
    pytest.importorskip("ldap3", reason="ldap3 is not installed")

HOLDING = [Recipe.MONITOR, Recipe.CONFIG]
SWITCHES = {
    Recipe.MONITOR: ("cn=Database 1,cn=Databases,cn=Monitor", "readOnly"),
    Recipe.CONFIG: ("olcDatabase={1}mdb,cn=config", "olcReadOnly"),
}
REFUSED = "unwillingToPerform"
numbers = iter(range(1_000_000))


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    with private_slapd() as found:
        yield found


def write(slapd: Slapd) -> str:
    return slapd.write(next(numbers))


def freeze(budget: float = BOUND) -> Freeze:
    return Freeze("c-1", "test", timedelta(seconds=budget), timedelta(seconds=60))


def adapter_of(uri: str, memory: Path, recipe: Recipe = Recipe.NONE, **more: object) -> openldap.Adapter:
    adapter = openldap.Adapter(Settings(uri=uri, recipe=recipe, **more))  # type: ignore[arg-type]
    adapter.app = "directory"
    adapter.undo_directory = memory
    return adapter


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what nobody tells of."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, f"not within {BOUND} s: {what}"
        await asyncio.sleep(0.02)


async def hold_through(adapter: openldap.Adapter, meddle: Callable[[], Awaitable[None]]) -> None:
    async with adapter.quiesce(freeze()):
        await meddle()


async def test_by_default_nothing_is_held_and_the_position_is_told(slapd: Slapd, memory: Path) -> None:
    adapter = adapter_of(slapd.uri, memory)
    assert adapter.properties.auto_release is AutoRelease.NOTHING_HELD
    assert adapter.properties.grade == "fs"
    assert write(slapd) == "success"
    async with adapter.quiesce(freeze()) as evidence:
        assert write(slapd) == "success"
        assert undo.pending(memory) == ()
    assert evidence["recipe"] == "none"
    assert evidence["position"].endswith("#000000#000#000000")
    assert evidence["data_directory"] == str(slapd.home / "db")
    assert evidence["suffix"] == SUFFIX
    assert int(evidence["entries"]) >= 2
    assert evidence["version"].startswith("OpenLDAP: slapd 2.")
    assert len(evidence) <= 16


@pytest.mark.parametrize("recipe", HOLDING)
async def test_a_switch_refuses_writers_in_the_hold_and_is_as_it_was_afterwards(
    slapd: Slapd, memory: Path, recipe: Recipe
) -> None:
    adapter = adapter_of(slapd.uri, memory, recipe)
    assert adapter.properties.auto_release is AutoRelease.NOBODY
    assert adapter.properties.grade == "app"
    before = "olcReadOnly" in slapd.on_disk()
    assert write(slapd) == "success"
    async with adapter.quiesce(freeze()) as evidence:
        assert write(slapd) == REFUSED
        assert ("olcReadOnly: TRUE" in slapd.on_disk()) is (recipe is Recipe.CONFIG)  # what a copy would have
        (record,) = undo.pending(memory)
        assert record.record is not None
        assert record.record.what["dn"] == SWITCHES[recipe][0]
    assert write(slapd) == "success"
    assert ("olcReadOnly" in slapd.on_disk()) is before
    assert undo.pending(memory) == ()
    async with adapter.quiesce(freeze()) as later:
        assert later["position"] > evidence["position"]
        assert int(later["entries"]) == int(evidence["entries"]) + 1


async def test_an_explicit_false_is_one_again(slapd: Slapd, memory: Path) -> None:
    slapd.set(*SWITCHES[Recipe.CONFIG], "FALSE")
    async with adapter_of(slapd.uri, memory, Recipe.CONFIG).quiesce(freeze()):
        assert "olcReadOnly: TRUE" in slapd.on_disk()
    assert "olcReadOnly: FALSE" in slapd.on_disk()


HOLD = """
import asyncio, sys
from appvss.adapters import openldap
async def main():
    async with openldap.quiesce(sys.argv[1], recipe=openldap.Recipe(sys.argv[2])):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@pytest.mark.parametrize("recipe", HOLDING)
async def test_a_killed_adapter_leaves_it_read_only_and_another_frees_it(
    slapd: Slapd, memory: Path, recipe: Recipe
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD, slapd.uri, recipe.value),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, undo.VARIABLE: str(memory)},
    )
    assert process.stdout is not None
    async with asyncio.timeout(BOUND):
        assert await process.stdout.readline() == b"held\n"
    process.kill()
    await process.wait()
    assert write(slapd) == REFUSED
    adapter = openldap.Adapter(Settings(uri=slapd.uri, recipe=recipe))
    (settled,) = await undo.settle(memory, {"openldap": adapter})
    assert settled.is_undone
    assert write(slapd) == "success"
    await adapter.undo(settled.pending.record.what if settled.pending.record else {})  # once more does no harm


async def test_another_database_than_the_one_of_the_record_is_not_taken_for_it(slapd: Slapd, memory: Path) -> None:
    adapter = adapter_of(slapd.uri, memory, Recipe.MONITOR, suffix=SUFFIX)
    held = await adapter.hold(freeze())
    assert held.written is not None
    held.written.leave()
    held.directory.drop()
    other = adapter_of(slapd.uri, memory, Recipe.MONITOR, suffix="cn=Monitor")  # as configured meanwhile
    (settled,) = await undo.settle(memory, {"directory": other})
    assert "is configured for it" in settled.failure
    assert write(slapd) == REFUSED
    (settled,) = await undo.settle(memory, {"directory": adapter})
    assert settled.is_undone
    assert write(slapd) == "success"


async def test_a_restart_forgets_the_one_switch_and_not_the_other(memory: Path) -> None:
    with private_slapd() as slapd:
        for recipe, expected in ((Recipe.MONITOR, "success"), (Recipe.CONFIG, REFUSED)):
            adapter = adapter_of(slapd.uri, memory, recipe)
            held = await adapter.hold(freeze())
            slapd.stop(signal.SIGKILL)
            slapd.start()
            assert write(slapd) == expected
            with pytest.raises(HoldLost):
                await adapter.confirm(held)
            await adapter.release(held, freeze())
            assert undo.pending(memory) == ()
            assert write(slapd) == "success"


@contextmanager
def counting_proxy(slapd: Slapd) -> Iterator[tuple[str, list[int]]]:
    """A socket that passes on to slapd all that it is given, and counts it."""
    counted = [0]
    path = slapd.home / f"proxy{next(numbers)}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def forward(source: socket.socket, target: socket.socket, counts: bool) -> None:
        while True:
            try:
                piece = source.recv(65536)
                if counts:
                    counted[0] += len(piece)
                if not piece:
                    target.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(piece)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            counted[0] += 1  # to connect is a word, too
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(slapd.home / "ldapi"))
            opened.extend((client, server))
            for way in ((client, server, True), (server, client, False)):
                threads.append(threading.Thread(target=forward, args=way))
                threads[-1].start()

    opened = [listener]
    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield f"ldapi://{quote(str(path), safe='')}", counted
    finally:
        for each in opened:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in threads:
            thread.join(BOUND)


@pytest.mark.parametrize("recipe", list(Recipe))
async def test_not_a_byte_goes_to_slapd_between_hold_and_thaw(slapd: Slapd, memory: Path, recipe: Recipe) -> None:
    with counting_proxy(slapd) as (uri, counted):
        adapter, question = adapter_of(uri, memory, recipe), freeze()
        held = await adapter.hold(question)
        question.filesystem_freeze.set()
        before = counted[0]
        assert before > 0
        adapter.evidence(held)
        await asyncio.sleep(0.4)  # as long as it is to be silent
        assert counted[0] == before
        await adapter.confirm(held)
        await adapter.release(held, question)
        assert write(slapd) == "success"


@pytest.mark.parametrize("recipe", HOLDING)
async def test_a_hold_that_ends_early_in_a_file_system_freeze_is_undone_later(
    slapd: Slapd, memory: Path, recipe: Recipe
) -> None:
    with counting_proxy(slapd) as (uri, counted):
        adapter, question = adapter_of(uri, memory, recipe), freeze()
        held = await adapter.hold(question)
        question.filesystem_freeze.set()
        before = counted[0]
        await adapter.release(held, question)
        assert counted[0] == before
        assert write(slapd) == REFUSED
        await until(lambda: undo.pending(memory) == (), "it was undone by itself")
        assert write(slapd) == "success"


@pytest.mark.parametrize("recipe", HOLDING)
async def test_a_switch_that_somebody_else_has_set_back_makes_it_a_lost_hold(
    slapd: Slapd, memory: Path, recipe: Recipe
) -> None:
    async def meddle() -> None:
        slapd.set(*SWITCHES[recipe], "FALSE")

    with pytest.raises(HoldLost, match="set to FALSE by somebody else"):
        await hold_through(adapter_of(slapd.uri, memory, recipe), meddle)
    assert undo.pending(memory) == ()


async def test_a_write_in_between_does_too_although_it_is_read_only_again(slapd: Slapd, memory: Path) -> None:
    async def meddle() -> None:
        slapd.set(*SWITCHES[Recipe.MONITOR], "FALSE")
        assert write(slapd) == "success"
        slapd.set(*SWITCHES[Recipe.MONITOR], "TRUE")

    with pytest.raises(HoldLost, match="was written to in the hold"):
        await hold_through(adapter_of(slapd.uri, memory, Recipe.MONITOR), meddle)
    assert write(slapd) == "success"


@pytest.mark.parametrize("recipe", HOLDING)
async def test_what_is_read_only_already_is_refused_and_left_so(slapd: Slapd, memory: Path, recipe: Recipe) -> None:
    slapd.set(*SWITCHES[recipe], "TRUE")
    try:
        adapter = adapter_of(slapd.uri, memory, recipe)
        assert (await adapter.preflight()).is_refused
        with pytest.raises(HoldRefused, match="TRUE already"):
            await adapter.hold(freeze())
        assert write(slapd) == REFUSED
        assert undo.pending(memory) == ()
    finally:
        slapd.set(*SWITCHES[recipe], "FALSE")


async def test_a_hold_that_is_cancelled_leaves_it_writable(
    slapd: Slapd, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_of(slapd.uri, memory, Recipe.CONFIG)
    switched = asyncio.Event()
    really = wire.Directory.set

    async def set_and_tell(self: wire.Directory, switch: wire.Switch, value: str) -> None:
        await really(self, switch, value)
        if value == "TRUE":
            switched.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(wire.Directory, "set", set_and_tell)
    work = asyncio.create_task(adapter.hold(freeze()))
    async with asyncio.timeout(BOUND):
        await switched.wait()
    assert write(slapd) == REFUSED
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()
    assert write(slapd) == "success"
    assert undo.pending(memory) == ()


async def test_a_slapd_that_hangs_is_not_waited_for(
    slapd: Slapd, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "ASK_LIMIT", timedelta(seconds=1))
    adapter = adapter_of(slapd.uri, memory, Recipe.MONITOR)
    slapd.send(signal.SIGSTOP)
    try:
        async with asyncio.timeout(BOUND):  # it answers nothing at all
            with pytest.raises(ServerUnreachable):
                await adapter.hold(freeze())
            assert (await adapter.preflight()).is_refused
    finally:
        slapd.send(signal.SIGCONT)
    # What it had been asked before it hung, it may do now.
    await until(lambda: undo.pending(memory) == () and write(slapd) == "success", "it is writable")


async def test_a_slapd_that_hangs_between_two_words_is_made_writable_when_it_goes_on(
    slapd: Slapd, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = wire.Directory.set

    async def hang_and_set(self: wire.Directory, switch: wire.Switch, value: str) -> None:
        if value == "TRUE":
            monkeypatch.setattr(wire, "ASK_LIMIT", timedelta(seconds=1))
            slapd.send(signal.SIGSTOP)
            await until(lambda: is_stopped(slapd.pid), "slapd hangs")
        await really(self, switch, value)

    monkeypatch.setattr(wire.Directory, "set", hang_and_set)
    adapter = adapter_of(slapd.uri, memory, Recipe.MONITOR)
    try:
        with pytest.raises(ServerUnreachable, match="did not answer"):
            await adapter.hold(freeze())
        assert [each.state for each in undo.pending(memory)] == [undo.PendingState.DUE]
    finally:
        slapd.send(signal.SIGCONT)
        monkeypatch.undo()
    await until(lambda: undo.pending(memory) == () and write(slapd) == "success", "it is writable")


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


# -- What is refused.


async def test_a_wrong_password_is_told_without_it(slapd: Slapd, memory: Path) -> None:
    adapter = adapter_of(slapd.uri, memory, bind_dn=ROOT_DN, password=Secret(lambda: "wrong word", "the test"))
    with pytest.raises(LoginRefused) as refused:
        await adapter.hold(freeze())
    (problem,) = (await adapter.preflight()).findings
    for text in (str(refused.value), refused.value.hint, repr(problem), repr(adapter._settings)):
        assert "wrong word" not in text


async def test_the_address_that_names_no_socket_is_that_of_the_distribution(
    slapd: Slapd, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_SOCKETS", ("/no/such/socket", str(slapd.home / "ldapi"), "/none/either"))
    assert Settings().uri == "ldapi:///"
    for uri in ("ldapi:///", "ldapi://"):
        async with adapter_of(uri, memory).quiesce(freeze()) as evidence:
            assert evidence["suffix"] == SUFFIX
    monkeypatch.setattr(wire, "_SOCKETS", ("/no/such/socket",))
    with pytest.raises(ServerUnreachable) as refused:
        await adapter_of("ldapi:///", memory).hold(freeze())
    assert "looked for at /no/such/socket" in refused.value.hint


async def test_nobody_at_the_address_and_no_address_are_told(memory: Path) -> None:
    adapter = adapter_of("ldapi://%2Fno%2Fsuch%2Fsocket", memory)
    with pytest.raises(ServerUnreachable):
        await adapter.hold(freeze())
    assert (await adapter.preflight()).is_refused
    with pytest.raises(SettingInvalid):
        await adapter_of("ldap://[nonsense", memory).hold(freeze())


async def test_an_account_that_may_not_switch_is_told_what_it_needs(memory: Path) -> None:
    with private_slapd(config_access="read", monitor_access="read") as slapd:
        for recipe in HOLDING:
            with pytest.raises(PrivilegeMissing) as refused:
                await adapter_of(slapd.uri, memory, recipe).hold(freeze())
            assert "olcAccess" in refused.value.hint
            assert write(slapd) == "success"
            assert undo.pending(memory) == ()


async def test_an_account_that_sees_little_is_told_so(memory: Path) -> None:
    with (
        private_slapd(config_access="none", monitor_access="none", overlay="") as slapd,
    ):
        found = await adapter_of(slapd.uri, memory).preflight()
        assert [each.name for each in found.findings] == ["crash_safe", "no_position", "volumes_unknown"]
        async with adapter_of(slapd.uri, memory, data_directory="/var/lib/ldap").quiesce(freeze()) as evidence:
            assert evidence["position"] == ""
            assert evidence["data_directory"] == "/var/lib/ldap"
        for recipe in HOLDING:
            with pytest.raises(ServerUnfit, match="sees no entry"):
                await adapter_of(slapd.uri, memory, recipe).hold(freeze())


async def test_a_suffix_that_is_not_there_is_told(slapd: Slapd, memory: Path) -> None:
    with pytest.raises(ServerUnfit, match="there is no entry dc=nowhere"):
        await adapter_of(slapd.uri, memory, suffix="dc=nowhere").hold(freeze())
    async with adapter_of(slapd.uri, memory, suffix=SUFFIX.upper().replace(",", ", ")).quiesce(freeze()) as evidence:
        assert evidence["data_directory"]


async def test_a_preflight_says_what_each_recipe_costs(slapd: Slapd, memory: Path) -> None:
    names = {
        Recipe.NONE: ["crash_safe"],
        Recipe.MONITOR: ["writers_fail"],
        Recipe.CONFIG: ["writers_fail", "read_only_is_stored"],
    }
    for recipe, expected in names.items():
        found = await adapter_of(slapd.uri, memory, recipe).preflight()
        assert [each.name for each in found.findings] == expected
        assert [each.path for each in found.volumes] == [(slapd.home / "db").resolve()]
        assert all(each.severity is not Severity.PROBLEM for each in found.findings)
    assert write(slapd) == "success"


async def test_a_database_without_sync_is_told(memory: Path) -> None:
    with private_slapd(more="olcDbNoSync: TRUE") as slapd:
        found = await adapter_of(slapd.uri, memory).preflight()
        assert [each.name for each in found.findings] == ["crash_safe", "no_sync"]
        assert found.settings["olcDbNoSync"] == "TRUE"


def test_records_of_others_are_not_ours(slapd: Slapd) -> None:
    with in_memory() as memory:
        adapter = adapter_of(slapd.uri, memory, Recipe.CONFIG)
        mine = {"uri": slapd.uri, "suffix": "", "recipe": "config", "before": "", "dn": "x"}
        assert adapter.is_of(mine)
        for wrong in ({"uri": "ldap://other"}, {"suffix": "dc=other"}, {"recipe": "none"}, {"recipe": "rm -rf"}):
            assert not adapter.is_of({**mine, **wrong})
        assert not adapter.is_of({})


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[tuple[Slapd, str, Path]]:
    """A slapd behind `ldaps://`, its address, and the certificate of who has signed its."""
    authority, port = trustme.CA(), free_port()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "slapd.pem")
    with private_slapd(tls=(port, tmp_path / "slapd.pem")) as slapd:
        yield slapd, f"ldaps://localhost:{port}", tmp_path / "ca.pem"


ACCOUNT: dict[str, Any] = {"bind_dn": ROOT_DN, "password": Secret(lambda: ROOT_PASSWORD, "a test")}


async def test_a_server_behind_ldaps_shows_its_certificate(shown: tuple[Slapd, str, Path], memory: Path) -> None:
    _, uri, authority = shown
    adapter = adapter_of(uri, memory, suffix=SUFFIX, data_directory="/d", tls_ca=authority, **ACCOUNT)
    async with adapter.quiesce(freeze()) as evidence:
        assert evidence["suffix"] == SUFFIX


@pytest.mark.parametrize(
    ("trusted", "host", "why"),
    [("machine", "localhost", "issuer"), ("other", "localhost", "issuer|self.signed"), ("ca", "127.0.0.1", "mismatch")],
)
async def test_a_server_that_cannot_show_who_it_is_is_told_no_password(
    shown: tuple[Slapd, str, Path], memory: Path, trusted: str, host: str, why: str
) -> None:
    _, uri, authority = shown
    trustme.CA().cert_pem.write_to_path(authority.with_name("other.pem"))
    more = {} if trusted == "machine" else {"tls_ca": authority.with_name(f"{trusted}.pem")}
    adapter = adapter_of(uri.replace("localhost", host), memory, suffix=SUFFIX, **ACCOUNT, **more)
    with pytest.raises(ServerUnreachable, match=f"no certificate that is good enough: .*({why})") as refusal:
        await adapter.hold(freeze())
    assert "tls_ca" in refusal.value.hint
    assert ROOT_PASSWORD not in str(refusal.value)


async def test_a_file_of_certificates_that_has_none(slapd: Slapd, memory: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for file in (tmp_path / "empty.pem", tmp_path / "absent.pem"):
        with pytest.raises(SettingInvalid, match="tls_ca") as refusal:
            await adapter_of("ldaps://localhost", memory, tls_ca=file).hold(freeze())
        assert "Errno" not in refusal.value.sentence
