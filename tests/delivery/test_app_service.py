"""Every promise of `app.proto` that the broker keeps without the cycle: hello, welcome, the table of refusals, cuts."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from appvss import contract
from appvss.delivery.app_service import REFUSALS_LIMIT
from appvss.delivery.registry import OUTBOX_LIMIT
from appvss.model.app import AppId, Registration, Requirement
from appvss.v1 import app_pb2, types_pb2
from tests.support.app_desk import app_desk
from tests.support.raw_app import Ending, SideConnection, attached, raw_app

Code = grpc.StatusCode


async def refused(directory: Path, **hello: Any) -> Ending:
    """What becomes of an app with this hello."""
    async with raw_app(directory) as app:
        await app.say(hello=app.hello_message(**hello))
        return await app.ending()


# -- hello and welcome


async def test_welcome_says_what_is_in_force(directory: Path) -> None:
    async with app_desk(directory) as desk, raw_app(directory) as app:
        welcome = await app.hello("orders-db", instance="eu", order=0, requirement=types_pb2.REQUIREMENT_TOLERATED)
        word = app.incarnation
        assert welcome == app_pb2.Welcome(
            protocol_version=1, broker="appvss/test", requirement=types_pb2.REQUIREMENT_TOLERATED, order=0
        )
        _, registration = await desk.told("registered")
        app_id, tolerated = AppId("orders-db", "eu"), Requirement.TOLERATED
        assert registration == Registration(app_id, order=0, requirement=tolerated, incarnation=word)


async def test_the_administrators_word_goes_before_the_apps(directory: Path) -> None:
    def word(registration: Registration) -> Registration:
        return replace(registration, requirement=Requirement.REQUIRED, order=7)

    async with app_desk(directory, in_force=word) as desk, raw_app(directory) as app:
        welcome = await app.hello(requirement=types_pb2.REQUIREMENT_IGNORED, order=90)
        assert (welcome.requirement, welcome.order) == (types_pb2.REQUIREMENT_REQUIRED, 7)
        assert (await desk.told("registered"))[1].order == 7


async def test_defaults_of_a_hello_that_says_nothing(directory: Path) -> None:
    async with app_desk(directory) as desk, raw_app(directory) as app:
        welcome = await app.hello("a")
        assert (welcome.requirement, welcome.order) == (types_pb2.REQUIREMENT_REQUIRED, 50)
        registration = (await desk.told("registered"))[1]
        assert registration.hold_limit == timedelta(seconds=60)
        assert registration.freeze_timeout is None


async def test_highest_common_version_is_chosen(directory: Path) -> None:
    async with app_desk(directory), raw_app(directory) as app:
        assert (await app.hello(protocol_versions=[9, 1, 2])).protocol_version == 1


async def test_half_close_ends_the_stream_in_good_order(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as app:
        await desk.told("registered")
        await app.hang_up()
        assert (await app.ending()).code is Code.OK
        assert await desk.told("left") == ("left", "a", "its stream ended", False)
        assert len(desk.registry) == 0


async def test_a_half_close_right_after_the_hello_ends_every_stream_in_good_order(directory: Path) -> None:
    async with app_desk(directory) as desk:
        for number in range(100):  # the welcome may or may not be written yet: no order of the two may hang the call
            async with raw_app(directory) as app:
                await app.say(hello=app.hello_message(f"app-{number}"))
                await app.hang_up()
                assert (await app.ending()).code is Code.OK
        assert len(desk.registry) == 0


async def test_answers_are_passed_on_in_order(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as app:
        await desk.told("registered")
        await app.say(ready=app_pb2.Ready(cycle="c"))
        await app.say(frozen=app_pb2.Frozen(cycle="c", evidence={"lsn": "0/16"}))
        await app.say(veto=app_pb2.Veto(cycle="c", reason="busy\n\x1b[31m", retryable=True))
        await app.say(hold_lost=app_pb2.HoldLost(cycle="c", reason="session gone"))
        await app.say(thawed=app_pb2.Thawed(cycle="c", unbroken=True))
        assert await desk.told("ready") == ("ready", "a", "c")
        assert await desk.told("froze") == ("froze", "a", "c", {"lsn": "0/16"})
        assert await desk.told("vetoed") == ("vetoed", "a", "c", "busy ?[31m", True)
        assert await desk.told("lost_hold") == ("lost_hold", "a", "c", "session gone")
        assert await desk.told("thawed") == ("thawed", "a", "c", True, "")


async def test_a_cycles_name_is_made_safe_before_anybody_sees_it(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as app:
        await desk.told("registered")
        await app.say(frozen=app_pb2.Frozen(cycle="\x1b[2J" + "x" * 50_000))
        _, _, cycle, _ = await desk.told("froze")
        assert cycle.startswith("?[2Jxxx")
        assert len(cycle) == contract.CYCLE_LIMIT


# -- the table of refusals


@pytest.mark.parametrize(
    ("hello", "error"),
    [
        ({"name": ""}, "NameInvalid"),
        ({"name": "x" * 65}, "NameInvalid"),
        ({"name": "a\x1b[31m"}, "NameInvalid"),
        ({"name": "a b"}, "NameInvalid"),
        ({"name": "\u00e9"}, "NameInvalid"),
        ({"instance": "-x"}, "NameInvalid"),
        ({"instance": "x" * 65}, "NameInvalid"),
        ({"after": ["a\n"]}, "NameInvalid"),
        ({"after": ["a"] * 33}, "MessageInvalid"),
        ({"paths": ["/"] * 65}, "MessageInvalid"),
        ({"incarnation": ""}, "MessageInvalid"),
        ({"incarnation": "x" * 15}, "MessageInvalid"),
        ({"incarnation": "x" * 65}, "MessageInvalid"),
        ({"incarnation": "x" * 15 + "\n"}, "MessageInvalid"),
        ({"freeze_timeout": {"seconds": -1}}, "MessageInvalid"),
        ({"hold_limit": {"nanos": -1}}, "MessageInvalid"),
        ({"hold_limit": {"seconds": 1 << 62}}, "MessageInvalid"),
        ({"holding": {"cycle": "c", "held_for": {"seconds": -1}}}, "MessageInvalid"),
    ],
)
async def test_a_limit_is_broken(directory: Path, hello: dict[str, Any], error: str) -> None:
    async with app_desk(directory) as desk:
        ending = await refused(directory, **hello)
        assert (ending.code, ending.error) == (Code.INVALID_ARGUMENT, error)
        assert ending.sentence
        assert ending.sentence.isprintable()
        assert ending.hint.endswith(".")
        assert (len(desk.registry), desk.news) == (0, [])


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\xff\xff\xff garbage",
        app_pb2.AttachRequest(ready=app_pb2.Ready(cycle="c")).SerializeToString(),
        b"\xa2\x06\x01x",  # a field that this version does not know
    ],
)
async def test_first_message_is_not_a_hello(directory: Path, first: bytes) -> None:
    async with app_desk(directory), raw_app(directory) as app:
        await app.say_bytes(first)
        ending = await app.ending()
        assert (ending.code, ending.sentence) == (Code.INVALID_ARGUMENT, "the first message is not a hello")
        assert "app.proto" in ending.hint


async def test_stream_that_ends_without_a_word(directory: Path) -> None:
    async with app_desk(directory), raw_app(directory) as app:
        await app.hang_up()
        assert (await app.ending()).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(("versions", "theirs"), [([2], "2"), ([], "none"), ([7, 3], "3, 7"), (range(100, 200), "107")])
async def test_no_common_version(directory: Path, versions: list[int], theirs: str) -> None:
    async with app_desk(directory):
        ending = await refused(directory, protocol_versions=versions)
        assert ending.code is Code.FAILED_PRECONDITION
        assert f"{theirs}, this broker 1" in ending.sentence
        assert ending.hint


async def test_name_is_taken_by_another_incarnation(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as first:
        ending = await refused(directory, name="a")
        assert (ending.code, ending.error) == (Code.ALREADY_EXISTS, "AttachRefused")
        assert ending.sentence == "a is registered already, by an unidentified process"
        async with attached(directory, "a", instance="2"):
            assert len(desk.registry) == 2
        await first.say(ready=app_pb2.Ready(cycle="still there"))
        assert [news[0] for news in desk.news].count("registered") == 2


async def test_name_is_taken_says_by_whom(directory: Path) -> None:
    async with app_desk(directory), attached(directory, "a", identified=True):
        ending = await refused(directory, name="a")
        assert ending.code is Code.ALREADY_EXISTS
        assert "process" in ending.sentence
        assert f"of user {os.getuid()}" in ending.sentence


async def test_same_incarnation_takes_the_place_of_its_own_stream(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as old, raw_app(directory) as new:
        await new.hello("a", incarnation=old.incarnation)
        await desk.told("registered")
        assert await desk.told("left") == ("left", "a", "it attached again", False)
        await desk.told("registered")
        ending = await old.ending()
        assert (ending.code, ending.sentence) == (Code.ABORTED, "it attached again")
        desk.service.send(AppId("a"), app_pb2.AttachResponse(thaw=app_pb2.Thaw(cycle="c")).SerializeToString())
        assert (await new.hear("thaw")).cycle == "c"
        assert [news[0] for news in desk.news] == ["registered", "left", "registered"]


async def test_same_incarnation_of_another_user_does_not(directory: Path) -> None:
    async with app_desk(directory), attached(directory, "a", identified=True) as old:
        ending = await refused(directory, name="a", incarnation=old.incarnation)
        assert ending.code is Code.ALREADY_EXISTS


async def test_token_unknown(directory: Path) -> None:
    async with app_desk(directory), raw_app(directory, token="0" * 64) as app:
        await app.say(hello=app.hello_message())
        ending = await app.ending()
        assert (ending.code, ending.sentence) == (Code.UNAUTHENTICATED, "the token is unknown, used or too old")
        assert "apps.peer.sock" in ending.hint


async def test_token_used(directory: Path) -> None:
    async with app_desk(directory), attached(directory, "a", identified=True) as app:
        assert app.side is not None
        async with raw_app(directory, token=app.side.token) as second:
            await second.say(hello=second.hello_message("b"))
            assert (await second.ending()).code is Code.UNAUTHENTICATED


async def test_token_too_old(directory: Path) -> None:
    async with app_desk(directory, token_lifetime=timedelta(milliseconds=20)):
        side = await SideConnection.open(directory)
        async with asyncio.timeout(10):  # the broker closes the connection of a token that it has forgotten
            assert await asyncio.get_running_loop().sock_recv(side.connection, 1) == b""
        async with raw_app(directory, token=side.token) as app:
            await app.say(hello=app.hello_message())
            assert (await app.ending()).code is Code.UNAUTHENTICATED
        side.close()


async def test_no_token_where_one_is_demanded(directory: Path) -> None:
    async with app_desk(directory, admits_unidentified=False) as desk:
        ending = await refused(directory)
        assert ending.code is Code.PERMISSION_DENIED
        assert "appvss-token" in ending.hint
        async with attached(directory, "a", identified=True):
            assert len(desk.registry) == 1


async def test_too_many_apps(directory: Path) -> None:
    async with app_desk(directory, limit=2), attached(directory, "a"), attached(directory, "b") as b:
        ending = await refused(directory, name="c")
        assert (ending.code, ending.sentence) == (Code.RESOURCE_EXHAUSTED, "2 apps are registered, which is the limit")
        assert "apps.limit" in ending.hint
        async with raw_app(directory) as again:  # who is in comes back all the same
            await again.hello("b", incarnation=b.incarnation)


async def test_too_many_apps_of_one_user(directory: Path) -> None:
    async with app_desk(directory, limit_per_uid=1) as desk:
        async with attached(directory, "a"):
            ending = await refused(directory, name="b")
            assert ending.code is Code.RESOURCE_EXHAUSTED
            assert ending.sentence == "1 unidentified apps are registered, which is the limit"
            async with attached(directory, "c", identified=True):
                assert len(desk.registry) == 2
        for kind in ("registered", "registered", "left", "left"):
            await desk.told(kind)
        async with attached(directory, "b"):  # room again
            pass


async def test_no_hello_in_time(directory: Path) -> None:
    async with app_desk(directory, hello_limit=timedelta(milliseconds=30)), raw_app(directory) as app:
        ending = await app.ending()
        assert (ending.code, ending.sentence) == (Code.DEADLINE_EXCEEDED, "no hello within 30.0ms")


@pytest.mark.parametrize("is_first", [True, False])
async def test_message_over_64_kib(directory: Path, is_first: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with app_desk(directory) as desk, raw_app(directory) as app:
        if not is_first:
            await app.hello("a")
        await app.say_bytes(b"\x00" * (contract.MESSAGE_LIMIT + 1))
        assert (await app.ending()).code is Code.RESOURCE_EXHAUSTED
        if not is_first:
            await desk.told("registered")
            await desk.told("left")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_message_of_64_kib_is_taken(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as app:
        await desk.told("registered")
        reason = "x" * (contract.MESSAGE_LIMIT - 100)
        await app.say(veto=app_pb2.Veto(cycle="c", reason=reason))
        assert len((await desk.told("vetoed"))[3]) == 500


# -- after the welcome


async def test_a_second_hello_is_refused_and_the_stream_goes_on(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as app:
        await app.say(hello=app.hello_message("a"))
        assert (await app.hear("refusal")).name == "message_unknown"
        await app.say_bytes(b"\xff\xff")
        assert (await app.hear("refusal")).name == "message_unknown"
        await app.say(frozen=app_pb2.Frozen(cycle="c", evidence={str(n): "" for n in range(17)}))
        refusal = await app.hear("refusal")
        assert (refusal.name, "17 entries" in refusal.sentence) == ("MessageInvalid", True)
        await app.say(ready=app_pb2.Ready(cycle="c"))
        await desk.told("registered")
        await desk.told("ready")


async def test_flood_of_refused_messages_is_cut(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as app, attached(directory, "b") as other:
        for _ in range(REFUSALS_LIMIT):
            await app.say_bytes(b"\xff")
            await app.hear("refusal")
        assert len(desk.registry) == 2
        await app.say_bytes(b"\xff")
        ending = await app.ending()
        assert (ending.code, ending.sentence) == (Code.ABORTED, "it sent too many messages that were refused")
        assert desk.news[-1] == ("left", "a", "it sent too many messages that were refused", False)
        await other.say(ready=app_pb2.Ready(cycle="c"))


async def test_refusals_of_the_cycle_count_too(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as app:
        for _ in range(REFUSALS_LIMIT + 1):
            desk.service.refuse(AppId("a"), "ack_twice", "a said frozen while held")
        assert (await app.ending()).code is Code.ABORTED


async def test_app_that_never_reads_is_cut_and_others_are_not(directory: Path) -> None:
    big = app_pb2.AttachResponse(abort=app_pb2.Abort(cycle="c", reason="x" * 60_000)).SerializeToString()
    async with app_desk(directory) as desk, attached(directory, "a") as deaf, attached(directory, "b") as other:
        for _ in range(2):
            await desk.told("registered")
        stream = desk.registry.get(AppId("a"))
        assert stream is not None
        sent = 0
        while stream.cut is None and sent < OUTBOX_LIMIT * 20:
            sent += 1
            desk.service.send(AppId("a"), big)
            desk.service.send(AppId("b"), big)
            assert (await other.hear("abort")).cycle == "c"
        assert sent > OUTBOX_LIMIT
        assert await desk.told("left") == ("left", "a", "it does not read what it is sent", False)
        assert desk.registry.get(AppId("b")) is not None
        del deaf


async def test_a_broken_stream_is_told_once(directory: Path) -> None:
    async with app_desk(directory) as desk:
        async with attached(directory, "a"):
            await desk.told("registered")
        assert (await desk.told("left"))[3] is False
        assert not desk.service.send(AppId("a"), b"")


async def test_goodbye_is_the_last_word(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as a, attached(directory, "b") as b:
        await desk.service.say_goodbye("the broker stops", timedelta(seconds=5))
        for app in (a, b):
            assert (await app.hear("goodbye")).reason == "the broker stops"
            ending = await app.ending()
            assert (ending.code, ending.sentence) == (Code.UNAVAILABLE, "the broker stops")


async def test_let_go_reaches_every_app(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a") as a, attached(directory, "b") as b:
        desk.service.let_go("c", "the core has failed")
        for app in (a, b):
            abort = await app.hear("abort")
            assert (abort.cycle, abort.reason) == ("c", "the core has failed")


async def test_policy_is_applied_to_those_who_are_there(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a", requirement=types_pb2.REQUIREMENT_IGNORED):
        await desk.told("registered")
        desk.service.apply_policy()
        assert len(desk.news) == 1
        desk.in_force = lambda registration: replace(registration, requirement=Requirement.REQUIRED)
        desk.service.apply_policy()
        assert (await desk.told("changed_policy"))[1].requirement is Requirement.REQUIRED
        stream = desk.registry.get(AppId("a"))
        assert stream is not None
        assert stream.registration.requirement is Requirement.REQUIRED
        assert stream.declared.requirement is Requirement.IGNORED


async def test_claim_comes_with_the_registration(directory: Path) -> None:
    holding = app_pb2.Holding(cycle="c-1")
    holding.held_for.FromTimedelta(timedelta(seconds=3))
    async with app_desk(directory) as desk, attached(directory, "a", holding=holding):
        claim = (await desk.told("registered"))[1].claim
        assert (claim.cycle, claim.held_for) == ("c-1", timedelta(seconds=3))


async def test_many_come_and_go_at_once(directory: Path) -> None:
    async with app_desk(directory, limit=100, limit_per_uid=100) as desk:

        async def come(number: int) -> None:
            async with attached(directory, f"app-{number}", identified=True):
                pass

        async with asyncio.TaskGroup() as tasks:
            for number in range(100):
                tasks.create_task(come(number))
        kinds = [(await desk.next_news())[0] for _ in range(200)]
        assert kinds.count("registered") == kinds.count("left") == 100
        assert len(desk.registry) == 0
