"""A disk that is copied in a hold and started elsewhere: the machine finds its certificate, says so, and goes on."""

from __future__ import annotations

import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path

from appvss.model.certificate import read_certificate
from appvss.v1 import app_pb2, types_pb2
from tests.end_to_end.support.stage import OFF, Stage
from tests.support.holds import FINISH, HoldCall
from tests.support.raw_app import attached
from tests.support.running_broker import QUIET, RunningBroker, running_broker, short_directory


async def image_of_a_hold(stage: Stage) -> tuple[Path, str]:
    """The state directory as a disk carries it that is copied in the hold, and the cycle of that hold."""
    await stage.start_broker(OFF, device=False)
    await stage.start_apps(("first", "async"), ("second", "threads"))
    requester = await stage.start_requester()
    held = await requester.held()
    image = short_directory()
    shutil.copytree(stage.broker.state_directory, image / "state")
    requester.finish()
    assert await requester.ended() == 0
    return image, held.text.split()[1]


def boot_anew(image: Path) -> None:
    """Let the copy be one of another boot: what the kernel of the restored machine would have said."""
    database = sqlite3.connect(image / "state" / "history.sqlite")
    with database:
        database.execute("UPDATE journal SET boot = 'the boot in which it was copied'")
    database.close()


async def says_restored(broker: RunningBroker, cycle: str) -> None:
    assert await broker.line("this machine was restored from cycle", cycle)
    restored = (await broker.status()).restored
    assert (restored.cycle, restored.source, restored.stage) == (cycle, "local", "held")
    certificate = read_certificate(restored.certificate)
    assert certificate.cycle == cycle
    assert {app.app.name for app in certificate.apps} == {"first", "second"}


async def test_it_says_from_which_cycle_and_lets_everybody_go_on(stage: Stage) -> None:
    image, cycle = await image_of_a_hold(stage)
    try:
        boot_anew(image)
        async with running_broker(QUIET, directory=image) as broker:
            await says_restored(broker, cycle)
            assert (await broker.status()).cycle == ""
            assert not (broker.state_directory / "certificate.json").exists()
            assert read_certificate((broker.state_directory / "certificate.restored.json").read_text()).cycle == cycle
            # An app whose memory was copied, too, comes back with that hold: it is told to go on, and the next freeze
            # is like any other.
            claim = app_pb2.Holding(cycle=cycle)
            claim.held_for.FromTimedelta(timedelta(seconds=1))
            async with attached(broker.runtime_directory, "first", holding=claim) as app:
                assert (await app.hear("abort")).cycle == cycle
                await app.say(thawed=app_pb2.Thawed(cycle=cycle))
                hold = await HoldCall.begin(broker)
                freeze = await app.freeze()
                await hold.held()
                await hold.say(FINISH)
                await app.hear("thaw")
                await app.say(thawed=app_pb2.Thawed(cycle=freeze.cycle, unbroken=True))
                assert (await hold.verdict()).level == types_pb2.LEVEL_APPLICATION
        async with running_broker(QUIET, directory=image) as again:  # told once: it is the same boot still
            assert not [line for line in again.log if "was restored from" in line]
            assert (await again.status()).restored.cycle == cycle
    finally:
        shutil.rmtree(image)
