"""`appvss filesystems` against a real server."""

from __future__ import annotations

import grpc
import pytest

from appvss.model.errors import ExitCode
from appvss.model.filesystem import FilesystemChoice, Scope
from appvss.v1 import admin_pb2, types_pb2
from tests.cli.command_line import Ask
from tests.sdk.broker_peer import BrokerPeer


async def test_in_lines(ask: Ask) -> None:
    done = await ask("filesystems")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "ORDER  FILE SYSTEM  DEVICE  TYPE  SOURCE      LIES ON",
        "1      /mnt/image   990:0   ext4  /dev/loop0  /srv",
        "2      /srv         991:2   xfs   /dev/sda2   -",
        "/srv is mounted at /home, too",
        "",
        "NOT FROZEN    DEVICE  TYPE   OUTCOME      VERDICT  WHY",
        "/boot/efi     991:1   vfat   excluded     -        the configuration leaves it out",
        "/media/stick  991:17  exfat  unfreezable  lower    exfat has no freeze",
        "",
        "DEAD-LOCK  the upper directory of the overlay /merged lies on /srv: even a",
        "           look-up beside a writer hangs until the thaw.",
    ]


async def test_what_has_nothing_to_freeze_is_told_in_a_line(peer: BrokerPeer, ask: Ask) -> None:
    for path in ("/proc", "/sys"):
        left = peer.filesystems.left.add(path=path, device="0:1", type="proc", reason="it shows the kernel's own state")
        left.outcome = types_pb2.FILESYSTEM_OUTCOME_SKIPPED
    out = (await ask("filesystems")).out
    assert "\n\nnot frozen, it shows the kernel's own state: /proc, /sys\n" in out
    del peer.filesystems.left[:2]
    out = (await ask("filesystems")).out
    assert "NOT FROZEN" not in out
    assert "/proc, /sys" in out


async def test_json(ask: Ask) -> None:
    document = (await ask("filesystems", "--json")).document
    assert (document["message_type"], document["scope"], document["veto"]) == ("filesystems", "all", None)
    assert [(one["path"], one["wave"]) for one in document["planned"]] == [("/mnt/image", 1), ("/srv", 2)]
    assert [(one["path"], one["lowers"]) for one in document["left"]] == [("/boot/efi", False), ("/media/stick", True)]
    assert [one["dead_locks"] for one in document["warnings"]] == [True]


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ([], FilesystemChoice(Scope.ALL)),
        (["--declared"], FilesystemChoice(Scope.DECLARED)),
        (["--mount", "/srv"], FilesystemChoice(Scope.NAMED, ("/srv",))),
    ],
)
async def test_for_which(peer: BrokerPeer, ask: Ask, options: list[str], choice: FilesystemChoice) -> None:
    assert (await ask("filesystems", *options)).code == 0
    assert peer.choices == [choice]


async def test_nothing_and_a_refusal_that_is_foreseen(peer: BrokerPeer, ask: Ask) -> None:
    peer.filesystems = admin_pb2.ListFilesystemsResponse(veto="this broker freezes no file systems")
    assert (await ask("filesystems")).out == (
        "Such a freeze would be refused: this broker freezes no file systems.\n\nno file system would be frozen\n"
    )


async def test_a_note_that_is_no_dead_lock(peer: BrokerPeer, ask: Ask) -> None:
    peer.filesystems.warnings[0].dead_locks = False
    assert "\nNOTE  the upper directory" in (await ask("filesystems")).out


async def test_apps_whose_paths_are_elsewhere(peer: BrokerPeer, ask: Ask) -> None:
    wal, run = "/srv/wal: /wal: the requester does not mean it", "/run/a: /run: it lies in memory"
    peer.filesystems.apps.add(app="mail[eu]", apart=True, paths=["/mail: /: the requester does not mean it"])
    peer.filesystems.apps.add(app="orders-db", paths=[wal, run], lowers=True)
    peer.filesystems.apps.add(app="cache", paths=[run + "\x1b"])
    out = " ".join((await ask("filesystems", "--mount", "/srv")).out.split())
    assert "APP mail[eu] would not be asked: none of its paths is on a named file system." in out
    assert f"APP orders-db has paths that are not in the freeze, and its copy would be worth less: {wal}; {run}." in out
    assert f"APP cache has paths that are not in the freeze: {run}?." in out
    apps = (await ask("filesystems", "--json")).document["apps"]
    assert [(one["app"], one["apart"], one["lowers"]) for one in apps] == [
        ("mail[eu]", True, False),
        ("orders-db", False, True),
        ("cache", False, False),
    ]
    assert apps[1]["paths"] == [wal, run]


async def test_what_is_no_mount_point(peer: BrokerPeer, ask: Ask) -> None:
    peer.failure = (grpc.StatusCode.INVALID_ARGUMENT, "/nowhere is no mount point")
    done = await ask("filesystems", "--mount", "/nowhere")
    assert (done.code, done.out) == (ExitCode.REFUSED, "")
    assert done.err.startswith("appvss: the broker refused: /nowhere is no mount point\n")
    assert (await ask("filesystems", "--declared", "--mount", "/srv")).code == ExitCode.USAGE
