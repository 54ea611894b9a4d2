"""The shop, copied three times while its customers buy. See README.md for what it prints.

usage: python -m samples.shop [--local]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from appvss.model.errors import AppvssError, ExitCode
from appvss.model.verdict import Level
from samples.demo.screen import Screen
from samples.demo.stage import PATIENCE, DemoFailed
from samples.shop.proof import Worth, count, verify
from samples.shop.stage import Shop, open_shop, why_not
from samples.shop.volumes import enter_own_namespace, frozen

APPS = ("shop-orders", "shop-carts")
ORDERS = 200
"""Orders before each copy, so that there is something to lose."""


def main() -> int:
    """Open the shop; 0 when everything was as promised."""
    screen = Screen()
    if reason := why_not():
        screen.say(f"the shop cannot be opened here: {reason}")
        return ExitCode.UNAVAILABLE
    enter_own_namespace("samples.shop")
    try:
        with tempfile.TemporaryDirectory(prefix="appvss-shop-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o711)
            screen.say("opening the shop: two volumes, PostgreSQL, Redis, customers, broker, agent")
            with open_shop(Path(folder), local="--local" in sys.argv[1:]) as shop:
                play(shop, screen)
        screen.say("everything was as promised; everything that was started has ended")
    except (DemoFailed, AppvssError, TimeoutError, subprocess.SubprocessError) as error:
        screen.say(f"[red]the shop failed:[/] {escape(str(error))}")
        return 1
    return 0


def play(shop: Shop, screen: Screen) -> None:
    """Copy three times, then look at the copies."""
    if shop.missing_device:
        screen.say(f"no FreeBSD device here ({shop.missing_device}): a local requester takes its place")
    screen.title("1 of 3: the file systems are frozen, the databases are not asked")
    copies = [(frozen_alone(shop), "")]
    screen.title(f"2 of 3: a snapshot ({shop.requester.title})")
    copies.append(by_the_host(shop))
    screen.title("3 of 3: `appvss freeze -- COMMAND`")
    copies.append(by_a_command(shop, screen))
    screen.title("what the copies are worth")
    found = [(copy, app, judged(shop, copy, app, cycle)) for copy, cycle in copies for app in APPS]
    show(screen, found)
    for copy, app, worth in found:
        is_held = copy.name != "frozen-alone"
        if worth.lost and (is_held or app == "shop-orders"):
            raise DemoFailed(f"{copy.name} has lost {worth.lost} writes of {app}")
        if is_held is not (worth.grade == "app-verified"):
            raise DemoFailed(f"{app} in {copy.name} is {worth.grade}")
    if not found[1][2].lost:
        raise DemoFailed("the carts were to be lost without a hold: there was nothing to see")


def frozen_alone(shop: Shop) -> Path:
    """What a snapshot without any app leaves."""
    copy = new_copy(shop, "frozen-alone")
    with frozen(list(shop.volumes.values())):
        take(shop, copy)
    return copy


def by_the_host(shop: Shop) -> tuple[Path, str]:
    """The host asks, the apps are held, and the kernel freezes its file systems: that part is played here."""
    copy = new_copy(shop, "host")
    if not shop.requester.freeze().go_on:
        raise DemoFailed("the freeze was refused")
    with frozen(list(shop.volumes.values())):
        take(shop, copy)
    shop.requester.thaw()
    return copy, cycle_of(shop)


def by_a_command(shop: Shop, screen: Screen) -> tuple[Path, str]:
    """The broker itself freezes the file systems on which the apps have declared their files."""
    copy = new_copy(shop, "command")
    done = shop.appvss("freeze", "--", *copier(shop, copy))
    screen.say(done.stderr.strip().splitlines()[0] if done.stderr else "no word")
    if done.returncode != 0:
        raise DemoFailed(f"`appvss freeze` ended with code {done.returncode}: {done.stderr.strip()}")
    return copy, cycle_of(shop)


def new_copy(shop: Shop, name: str) -> Path:
    """A folder for a copy, once the customers have ordered some more."""
    began, give_up = time.monotonic_ns(), time.monotonic() + PATIENCE
    while sum(time_of > began for what, *_, time_of in shop.acknowledged() if what == "order") < ORDERS:
        if time.monotonic() > give_up:
            raise DemoFailed("the customers do not order")
        time.sleep(0.05)
    copy = shop.folder / name
    copy.mkdir(mode=0o711)
    return copy


def copier(shop: Shop, copy: Path) -> list[str]:
    """The command that copies the volumes' images."""
    return [sys.executable, str(Path(__file__).with_name("copier.py")), str(copy), *shop.images]


def take(shop: Shop, copy: Path) -> None:
    """Copy the volumes."""
    subprocess.run(copier(shop, copy), check=True, timeout=PATIENCE)


def cycle_of(shop: Shop) -> str:
    """The cycle that has just ended, which must have been good."""
    give_up = time.monotonic() + PATIENCE
    while not shop.client.cycles(limit=1) or shop.client.status().cycle:
        if time.monotonic() > give_up:
            raise DemoFailed("the cycle did not end")
        time.sleep(0.05)
    verdict = shop.client.cycles(limit=1)[0].verdict
    if verdict.level is not Level.APPLICATION:
        raise DemoFailed(f"the verdict is {verdict.level}: {'; '.join(verdict.reasons)}")
    return verdict.cycle


def judged(shop: Shop, copy: Path, app: str, cycle: str) -> Worth:
    """What `appvss verify` says of a copy, and what is missing in it."""
    return count(shop, copy, app, verify(shop, copy, app, cycle)["grade"])


def show(screen: Screen, found: Iterable[tuple[Path, str, Worth]]) -> None:
    """The table."""
    table = Table(box=None, pad_edge=False)
    for column in ("copy", "app", "appvss verify", "acknowledged", "lost"):
        table.add_column(column)
    for copy, app, worth in found:
        colour = "red" if worth.lost else "green"
        lost = f"[{colour}]{worth.lost}[/]"
        table.add_row(copy.name, app, worth.grade, str(worth.acknowledged), lost)
    screen.console.print(table)


if __name__ == "__main__":
    sys.exit(main())
