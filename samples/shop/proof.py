"""What a copy of the shop is worth: what `appvss verify` says, and what the customers miss in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samples.demo.stage import DemoFailed
from samples.shop.servers import Carts, Orders
from samples.shop.stage import Shop
from samples.shop.volumes import mount


@dataclass(frozen=True, slots=True)
class Worth:
    """Of one app's copy."""

    grade: str
    acknowledged: int
    """Writes that customers had been told of before the freeze."""
    lost: int
    """Of these, how many are not in the copy."""


def verify(shop: Shop, copy: Path, app: str, cycle: str) -> dict[str, Any]:
    """What `appvss verify` finds; without a cycle it is told what lies there, since nobody was asked."""
    name = app.removeprefix("shop-")
    engine = {"orders": "postgresql", "carts": "redis"}[name]
    data = str(shop.volumes[name].path / "data")
    evidence = ["--app", app, "--cycle", cycle] if cycle else ["--engine", engine, "--data-directory", data]
    done = shop.appvss("verify", str(copy / f"{name}.img"), *evidence, "--json")
    if not done.stdout:
        raise DemoFailed(f"`appvss verify` could not look at the copy: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def count(shop: Shop, copy: Path, app: str, grade: str) -> Worth:
    """Start the copy and count what is missing in it. The images are changed by it: verify them before."""
    instant = int((copy / "instant").read_text())
    told = [(customer, number) for what, customer, number, time in shop.acknowledged()
            if what == {"shop-orders": "order", "shop-carts": "cart"}[app] and time < instant]  # fmt: skip
    name = app.removeprefix("shop-")
    place = copy / name
    mount(copy / f"{name}.img", place)
    if app == "shop-orders":
        orders = Orders(place / "data", shop.memory / f"{copy.name}-{name}")
        ids = orders.ids()
        orders.stop()
        lost = sum(number not in ids for _, number in told)
    else:
        carts = Carts(place / "data", shop.memory / f"{copy.name}-{name}")
        sequences = carts.sequences()
        carts.stop()
        lost = sum(number > sequences.get(customer, 0) for customer, number in told)
    return Worth(grade, len(told), lost)
