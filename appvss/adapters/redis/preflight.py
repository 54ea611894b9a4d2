"""What would go wrong in a freeze of a Redis server: found by looking, with nothing held and nothing changed.

Whether the account may pause writes is asked with commands that cannot be carried out: a pause of no number, a dump of
no kind, and the rest between MULTI and DISCARD. The server checks the right first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.adapters.base import Finding, Preflight, Severity, Volume, VolumeKind
from appvss.adapters.errors import AdapterError, DriverMissing, LoginRefused, PrivilegeMissing, ServerUnreachable
from appvss.adapters.redis.information import OLDEST, WAITAOF_SINCE, Recipe
from appvss.adapters.redis.session import IN_THE_URL, LOADING, Look, Session, Settings, acl_hint

BUDGET_TO_EXPECT: Final = timedelta(seconds=10)
"""What an app gets of a host's 15 seconds, about."""
LOOK_LIMIT: Final = timedelta(seconds=8)
"""How long a server may take to be looked at, once it is connected to."""
PAUSE_PATIENCE: Final = timedelta(seconds=3)
"""How long a write that is never carried out may wait, before the server is taken to hold writes back."""
_NAMES: Final = {
    DriverMissing: "driver_missing",
    ServerUnreachable: "server_unreachable",
    LoginRefused: "login_refused",
    PrivilegeMissing: "missing_privilege",
}
_GIBIBYTE: Final = 1024**3


def problem(name: str, sentence: str, hint: str) -> Finding:
    """Something that a freeze would be refused for."""
    return Finding(Severity.PROBLEM, name, sentence, hint)


def warning(name: str, sentence: str, hint: str) -> Finding:
    """Something that makes a freeze worth less, or may fail it."""
    return Finding(Severity.WARNING, name, sentence, hint)


def problem_of(error: AdapterError) -> Finding:
    """An adapter's error as a finding."""
    if LOADING in error.sentence:
        return problem("loading", error.sentence, error.hint)
    name = next((name for kind, name in _NAMES.items() if isinstance(error, kind)), "server_unfit")
    return problem(name, error.sentence, error.hint)


def recipe_of(look: Look) -> Recipe | None:
    """What a freeze would do; None: the server writes nothing to disk. One that does not tell its `save` has some."""
    if look.information.writes_aof:
        return Recipe.AOF
    return None if look.configured is not None and not look.setting("save") else Recipe.RDB


def obstacles(look: Look, place: str) -> list[Finding]:
    """What a freeze is refused for, whoever asks."""
    told, found = look.information, []
    if told.protocol_version < OLDEST:
        found.append(problem("server_too_old", f"{place} is {told.version}", "CLIENT PAUSE WRITE needs Redis 6.2."))
    if told.is_set("loading"):
        found.append(problem("loading", f"{place} {LOADING}", "Wait until it has."))
    if recipe_of(look) is None:
        found.append(
            problem(
                "no_persistence",
                f"{place} writes nothing to disk: no append-only file, and no save point",
                "Set `appendonly yes` or a `save` point in its configuration; a mere cache needs no adapter.",
            )
        )
    if told.writes_aof and told.text("aof_last_write_status") not in ("", "ok"):
        found.append(
            problem("aof_write_failed", f"{place} could not write its append-only file", "Read its log: a full disk?")
        )
    return found


async def look_at(settings: Settings) -> Preflight:
    """Look at the server. What is wrong with it is a finding, also that it is not there."""
    try:
        session = await Session.open(settings)
    except AdapterError as error:
        return Preflight((problem_of(error),))
    try:
        async with asyncio.timeout(LOOK_LIMIT.total_seconds()):
            look = await Look.take(session)
            found = obstacles(look, session.place)
            # the driver hangs up on some answers
            rights = [] if found else await rights_missing(session, settings, look)
    except AdapterError as error:
        return Preflight((problem_of(error),))
    except TimeoutError:
        return Preflight((problem_of(silent(session.place)),))
    finally:
        await session.close()
    recipe = recipe_of(look)
    volumes, places = _volumes(look, settings)
    findings = [*found, *rights, *_cautions(look, session.place, settings), *places]
    if not any(finding.severity is Severity.PROBLEM for finding in findings):
        findings.append(Finding(Severity.OK, "ready", f"{session.place} can be held, by the recipe {recipe}"))
    return Preflight(
        tuple(findings),
        look.information.version,
        volumes,
        {name: look.setting(name) for name in ("appendfsync", "save", "stop-writes-on-bgsave-error") if look.configured}
        | {"appendonly": "yes" if look.information.writes_aof else "no"},
        str(recipe or ""),
    )


async def rights_missing(session: Session, settings: Settings, look: Look) -> list[Finding]:
    """Which commands of the recipe the account may not say. Nothing is carried out.

    A server that holds writes back lets one wait also between MULTI and DISCARD, as long as the pause lasts.

    Raises:
        AdapterError: the connection has ended.
    """
    found = [
        await session.refusal("CLIENT", "PAUSE", "no-number", "WRITE"),
        await session.refusal("BGSAVE", "NO-KIND"),
        await session.refusal("CLIENT", "ID"),
    ]
    found = [error for error in found if isinstance(error, PrivilegeMissing)]
    if await session.refusal("MULTI") is not None:
        unsure = warning(
            "privilege_unchecked",
            f"{session.place}: whether the account may end a pause and set the marker key cannot be checked",
            acl_hint(settings),
        )
        return [*map(problem_of, _of(found)), unsure]
    queued = [await session.refusal("CLIENT", "UNPAUSE")]
    if not look.information.is_replica:
        try:
            async with asyncio.timeout(PAUSE_PATIENCE.total_seconds()):
                queued.append(await session.refusal("SET", settings.marker_key, "preflight"))
        except TimeoutError:  # with which the driver has hung up
            return [problem_of(error) for error in _of([*found, *queued])] + [_paused(session.place)]
    await session.refusal("DISCARD")
    return [problem_of(error) for error in _of([*found, *queued])]


def silent(place: str) -> AdapterError:
    """A server that took the connection and then did not answer in time."""
    return ServerUnreachable(f"{place} gives no answer", "Look whether it hangs, or runs a command that takes long.")


def _paused(place: str) -> Finding:
    return problem(
        "writes_paused",
        f"{place} lets writes wait: somebody has paused them, or a hold that ended early has",
        "Wait until the pause is over; CLIENT UNPAUSE ends it, also if it is somebody's hold.",
    )


def _of(errors: Iterable[AdapterError | None]) -> list[AdapterError]:
    return [error for error in errors if error is not None]


def _cautions(look: Look, place: str, settings: Settings) -> list[Finding]:
    """What makes a freeze worth less, or may fail it."""
    told, recipe, found = look.information, recipe_of(look), []
    if settings.password.source == IN_THE_URL:
        found.append(
            warning(
                "password_in_url", f"the url of {place} has a password in it", "Move it to `password`, by reference."
            )
        )
    if told.is_replica:
        found.append(
            warning(
                "replica",
                f"{place} is a replica of {told.text('master_host')}: it takes no marker, and nothing will show of a "
                "copy that it was taken in the hold",
                "Name the primary in `url`, unless the load on it counts more.",
            )
        )
    if told.is_set("cluster_enabled"):
        found.append(
            warning(
                "cluster",
                f"{place} is one node of a cluster: only this node is held",
                "Configure an app for each primary; a copy of several is one for each shard.",
            )
        )
    if told.text("rdb_last_bgsave_status") not in ("", "ok"):
        found.append(_last_save_failed(look, place))
    if told.text("aof_last_bgrewrite_status") not in ("", "ok"):
        found.append(
            warning("rewrite_failed", f"{place} could not rewrite its append-only file", "Read its log: a full disk?")
        )
    if recipe is Recipe.RDB:
        found.extend(_dump_cautions(look, place))
    if look.configured is None:
        found.append(warning("configuration_hidden", f"{place} does not answer CONFIG GET", acl_hint(settings)))
    return found


def _last_save_failed(look: Look, place: str) -> Finding:
    sentence = f"the last save of {place} failed"
    hint = "Read its log: a full disk, or no right to write to its `dir`; then BGSAVE."
    takes_none = look.setting("stop-writes-on-bgsave-error") != "no" and bool(look.setting("save"))
    is_fatal = takes_none or recipe_of(look) is Recipe.RDB
    return problem("last_save_failed", sentence, hint) if is_fatal else warning("last_save_failed", sentence, hint)


def _dump_cautions(look: Look, place: str) -> list[Finding]:
    """What a dump in the hold costs, and what it needs."""
    told, found = look.information, []
    seconds, size = told.dump_takes.total_seconds(), told.number("used_memory") / _GIBIBYTE
    if told.dump_takes > BUDGET_TO_EXPECT:
        found.append(
            warning(
                "large_dataset",
                f"a dump of the {size:.1f} GiB of {place} takes about {seconds:.0f} s; writers wait for it, and most "
                "requesters give 10 s",
                "Set `appendonly yes`: with an append-only file no dump is needed.",
            )
        )
    if _is_here(place) and _fork_is_doubtful(told.number("used_memory")):
        found.append(
            warning(
                "fork_memory",
                f"{place} may not be able to fork: vm.overcommit_memory is not 1, and memory is short",
                "Set vm.overcommit_memory=1 with sysctl.",
            )
        )
    return found


def _fork_is_doubtful(used: int) -> bool:
    """Whether the kernel may refuse a copy of so much memory (proc(5), overcommit_memory)."""
    try:
        mode = Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip()
        memory = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return False
    available = next((line.split()[1] for line in memory.splitlines() if line.startswith("MemAvailable:")), "")
    return mode != "1" and available.isdigit() and used > int(available) * 1024


def _is_here(place: str) -> bool:
    return place.startswith(("unix://", "redis://localhost:", "redis://127.", "redis://::1:"))


def data_directory(look: Look, settings: Settings) -> str:
    """Where the server's files lie, links resolved; empty: nobody says."""
    named = str(settings.data_directory) if settings.data_directory != Path() else look.setting("dir")
    return os.path.realpath(named) if named else ""


def log_directory(look: Look, settings: Settings) -> str:
    """Where the append-only files lie, links resolved; empty: nobody says."""
    folder = data_directory(look, settings)
    return os.path.realpath(os.path.join(folder, look.setting("appenddirname") or ".")) if folder else ""


def _volumes(look: Look, settings: Settings) -> tuple[tuple[Volume, ...], list[Finding]]:
    """The folders of the data, and what is wrong with them."""
    folder = data_directory(look, settings)
    if not folder:
        return (), [warning("volumes_unknown", "the server does not say where its files lie", "Set `data_directory`.")]
    if not os.path.isdir(folder):
        return (), [
            warning(
                "volumes_elsewhere",
                f"{folder} is no folder of this machine: the server runs elsewhere, or in a container",
                "Set `data_directory` to the folder as this machine sees it.",
            )
        ]
    volumes = [Volume(VolumeKind.DATA, Path(folder))]
    logs = log_directory(look, settings)
    if look.information.writes_aof and logs != folder and os.path.isdir(logs):
        volumes.append(Volume(VolumeKind.LOG, Path(logs)))
    return tuple(volumes), []


def knows_waitaof(look: Look) -> bool:
    """Whether a write can be waited for until it is on the disk. With `appendfsync no` it never is."""
    return (
        look.information.writes_aof
        and look.information.protocol_version >= WAITAOF_SINCE
        and look.setting("appendfsync") != "no"
    )
