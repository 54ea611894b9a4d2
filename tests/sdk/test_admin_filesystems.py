"""File systems and hooks, as an administrator's program asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import TypeVar

import grpc
import pytest

from appvss.model.errors import BrokerRefused, BrokerUnreachable, CycleBusy
from appvss.model.filesystem import (
    FilesystemChoice,
    FilesystemOutcome,
    FilesystemWarning,
    LeftFilesystem,
    PlannedFilesystem,
    Scope,
)
from appvss.model.verdict import Level, Verdict
from appvss.sdk.admin import AdminClient
from appvss.sdk.admin_cycles import Held, HookEnd
from appvss.sdk.admin_filesystems import FreezerStatus
from tests.sdk.broker_peer import DOUBTFUL, FAILED, GOOD, BrokerPeer, broker_peer, filesystems

Value = TypeVar("Value")
NAMED = FilesystemChoice(Scope.NAMED, ("/srv", "/home"))


@pytest.fixture
async def peer() -> AsyncIterator[BrokerPeer]:
    async with broker_peer() as peer:
        yield peer


async def asked(peer: BrokerPeer, question: Callable[[AdminClient], Value]) -> Value:
    def ask() -> Value:
        with AdminClient(peer.directory) as client:
            return question(client)

    return await asyncio.to_thread(ask)


async def test_survey(peer: BrokerPeer) -> None:
    survey = await asked(peer, lambda client: client.filesystems())
    assert (survey.scope, survey.veto) == (Scope.ALL, "")
    assert survey.planned == (
        PlannedFilesystem("/mnt/image", "990:0", "ext4", "/dev/loop0", 1, lies_on=("991:2",)),
        PlannedFilesystem("/srv", "991:2", "xfs", "/dev/sda2", 2, others=("/home",)),
    )
    assert survey.left == (
        LeftFilesystem("/boot/efi", "991:1", "vfat", FilesystemOutcome.EXCLUDED, "the configuration leaves it out"),
        LeftFilesystem(
            "/media/stick", "991:17", "exfat", FilesystemOutcome.UNFREEZABLE, "exfat has no freeze", lowers=True
        ),
    )
    (warning,) = survey.warnings
    assert isinstance(warning, FilesystemWarning)
    assert (warning.kind, warning.path, warning.dead_locks) == ("overlay", "/srv", True)


async def test_survey_of_a_choice_and_what_may_not_reach_a_terminal(peer: BrokerPeer) -> None:
    peer.filesystems = filesystems()
    peer.filesystems.veto = "no\x1b[2J"
    survey = await asked(peer, lambda client: client.filesystems(NAMED))
    assert peer.choices == [NAMED]
    assert survey.veto == "no?[2J"


async def test_survey_that_is_refused(peer: BrokerPeer) -> None:
    peer.failure = (grpc.StatusCode.INVALID_ARGUMENT, "/nowhere is no mount point")
    with pytest.raises(BrokerRefused, match="the broker refused: /nowhere is no mount point"):
        await asked(peer, lambda client: client.filesystems(NAMED))


async def test_freezer_in_the_status(peer: BrokerPeer) -> None:
    status = await asked(peer, lambda client: client.status())
    assert status.freezer == FreezerStatus(
        mode="linux",
        condition="hanging",
        guardian_pid=4712,
        frozen=(("/srv", timedelta(seconds=1.5)),),
        hanging=("/var/lib/slow",),
        detail=peer.status.freezer.detail,
    )
    peer.status.ClearField("freezer")
    assert (await asked(peer, lambda client: client.status())).freezer is None


async def test_verdict_has_its_file_systems(peer: BrokerPeer) -> None:
    (cycle,) = await asked(peer, lambda client: client.cycles())
    assert cycle.verdict.filesystems == DOUBTFUL.filesystems


# -- hooks


async def test_hook_freezes(peer: BrokerPeer) -> None:
    held = await asked(
        peer,
        lambda client: client.hook_freeze(
            "qemu-ga",
            freeze_budget=timedelta(seconds=9),
            hold_limit=timedelta(seconds=8),
            filesystems=NAMED,
        ),
    )
    assert held == Held("c-1", timedelta(seconds=60))
    (begin,) = peer.hook_begins
    assert (begin.requester, list(begin.filesystems.paths)) == ("qemu-ga", ["/srv", "/home"])
    assert (begin.freeze_budget.seconds, begin.hold_limit.seconds) == (9, 8)


async def test_hook_names_no_more_than_it_wants(peer: BrokerPeer) -> None:
    await asked(peer, lambda client: client.hook_freeze("qemu-ga"))
    (begin,) = peer.hook_begins
    assert not begin.HasField("freeze_budget")
    assert not begin.HasField("hold_limit")


async def test_hook_whose_freeze_fails(peer: BrokerPeer) -> None:
    peer.hook_answer = FAILED
    assert await asked(peer, lambda client: client.hook_freeze("qemu-ga")) == FAILED
    peer.hook_answer = "nothing"
    answer = await asked(peer, lambda client: client.hook_freeze("qemu-ga"))
    assert isinstance(answer, Verdict)
    assert answer.level is Level.FAILED
    peer.failure = (grpc.StatusCode.ABORTED, "cycle c of x is under way (holding)")
    with pytest.raises(CycleBusy):
        await asked(peer, lambda client: client.hook_freeze("qemu-ga"))


async def test_hook_thaws(peer: BrokerPeer) -> None:
    assert await asked(peer, lambda client: client.hook_thaw()) == HookEnd(GOOD, is_kept=True)
    peer.hook_is_kept = False
    assert await asked(peer, lambda client: client.hook_thaw()) == HookEnd(GOOD, is_kept=False)
    peer.hook_verdict = None
    assert await asked(peer, lambda client: client.hook_thaw()) is None
    peer.failure = (grpc.StatusCode.UNAVAILABLE, "the broker stops")
    with pytest.raises(BrokerUnreachable):
        await asked(peer, lambda client: client.hook_thaw())
