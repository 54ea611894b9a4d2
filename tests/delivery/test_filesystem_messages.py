"""What administrators are told of the file systems: over a real socket, from values of the model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from appvss import contract
from appvss.delivery.admin_service import AdminService
from appvss.delivery.filesystem_messages import freezer_message
from appvss.delivery.watch import Watchers
from appvss.model.errors import UsageError
from appvss.model.filesystem import (
    FilesystemChoice,
    FilesystemOutcome,
    FilesystemSurvey,
    FilesystemWarning,
    FreezerCondition,
    FreezerMode,
    FreezerState,
    LeftFilesystem,
    PlannedFilesystem,
    Scope,
)
from appvss.model.instant import Instant
from appvss.sdk.admin_filesystems import FreezerStatus, freezer_of, survey_of
from appvss.v1 import admin_pb2, admin_pb2_grpc, types_pb2
from tests.support.running_broker import BOUND, running_broker

SURVEY = FilesystemSurvey(
    Scope.NAMED,
    (
        PlannedFilesystem("/mnt/image", "7:0", "ext4", "/dev/loop0", 1, (), ("8:2",)),
        PlannedFilesystem("/srv", "8:2", "btrfs", "/dev/sda2", 2, ("/home", "/var"), ()),
    ),
    tuple(
        LeftFilesystem(f"/{outcome}", "8:9", "vfat", outcome, f"it is {outcome}", outcome is FilesystemOutcome.BUSY)
        for outcome in FilesystemOutcome
    ),
    (FilesystemWarning("root", "/", "the terminal may hang"), FilesystemWarning("swap", "/srv", "it waits", True)),
    "one of them cannot be frozen",
)


class Surveyed:
    """A view that has one survey, or none."""

    def __init__(self, survey: FilesystemSurvey | Exception | None) -> None:
        self.survey = survey
        self.choices: list[FilesystemChoice] = []

    async def filesystems(self, choice: FilesystemChoice) -> FilesystemSurvey:
        self.choices.append(choice)
        if self.survey is None:
            await asyncio.Event().wait()
        if isinstance(self.survey, Exception):
            raise self.survey
        assert isinstance(self.survey, FilesystemSurvey)
        return self.survey


@asynccontextmanager
async def asking(directory: Path, view: Any) -> AsyncIterator[Any]:
    server = grpc.aio.server(options=contract.SERVER_OPTIONS)
    service = AdminService(view, Watchers(), survey_limit=timedelta(milliseconds=200))
    admin_pb2_grpc.add_AdminServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{directory}/a.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{directory}/a.sock") as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel).ListFilesystems
    await server.stop(0)


async def test_survey_arrives_as_it_was(directory: Path) -> None:
    view = Surveyed(SURVEY)
    choice = FilesystemChoice(Scope.NAMED, ("/srv",))
    async with asking(directory, view) as ask:
        answer = await ask(admin_pb2.ListFilesystemsRequest(choice=contract.choice_message(choice)), timeout=BOUND)
        assert survey_of(answer) == SURVEY
        await ask(admin_pb2.ListFilesystemsRequest(), timeout=BOUND)
        assert view.choices == [choice, FilesystemChoice(Scope.ALL)]


@pytest.mark.parametrize(
    ("survey", "code", "sentence"),
    [
        (
            UsageError("/nowhere is no mount point", "Name one."),
            grpc.StatusCode.INVALID_ARGUMENT,
            "/nowhere is no mount point",
        ),
        (None, grpc.StatusCode.DEADLINE_EXCEEDED, "the file systems could not be looked at within 200.0ms"),
    ],
)
async def test_survey_that_cannot_be_given(
    directory: Path, survey: Exception | None, code: grpc.StatusCode, sentence: str
) -> None:
    async with asking(directory, Surveyed(survey)) as ask:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(admin_pb2.ListFilesystemsRequest(), timeout=BOUND)
        assert (caught.value.code(), caught.value.details()) == (code, sentence)


async def test_choice_that_breaks_the_contract(directory: Path) -> None:
    async with asking(directory, Surveyed(SURVEY)) as ask:
        choice = types_pb2.FilesystemChoice(scope=types_pb2.FILESYSTEM_SCOPE_ALL, paths=["/srv"])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(admin_pb2.ListFilesystemsRequest(choice=choice), timeout=BOUND)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_broker_tells_for_which_choice_it_speaks() -> None:
    async with running_broker() as broker:
        for scope in (Scope.DECLARED, Scope.ALL):
            choice = contract.choice_message(FilesystemChoice(scope))
            answer = await broker.admin.ListFilesystems(admin_pb2.ListFilesystemsRequest(choice=choice), timeout=BOUND)
            assert contract.scope_of(answer.scope) is scope


# -- the freezer


def test_freezer_that_is_off() -> None:
    assert freezer_of(freezer_message(FreezerState(), Instant(timedelta(0)))) == FreezerStatus("none", "off")


def test_freezer_that_holds_and_hangs() -> None:
    now = Instant(timedelta(seconds=100))
    state = FreezerState(
        FreezerMode.LINUX,
        FreezerCondition.HANGING,
        77,
        (("/srv", Instant(timedelta(seconds=98))),),
        ("/slow",),
        "the kernel does not come back",
    )
    assert freezer_of(freezer_message(state, now)) == FreezerStatus(
        "linux", "hanging", 77, (("/srv", timedelta(seconds=2)),), ("/slow",), "the kernel does not come back"
    )
