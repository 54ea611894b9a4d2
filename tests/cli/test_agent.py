"""`appvss agent check`, `sample` and `undo`, on applications that are there, absent, silent and without a driver."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appvss.cli.main import run
from appvss.model.errors import ExitCode
from tests.cli.command_line import Done, run_apart
from tests.support.memory_directory import in_memory
from tests.support.running_broker import BOUND


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A configuration file that does not exist yet, beside a database and a directory in memory."""
    with in_memory() as memory, closing(sqlite3.connect(tmp_path / "orders.db")) as database:
        database.execute("CREATE TABLE orders (id INTEGER)")
        database.commit()
        (tmp_path / "head").write_text(f'[agent]\nundo_directory = "{memory}/undo"\n')
        yield tmp_path / "agent.toml"


def write(file: Path, text: str) -> None:
    file.write_text((file.parent / "head").read_text() + text)


def sqlite(file: Path, name: str, database: str = "orders.db") -> str:
    return f'[apps.{name}]\nadapter = "sqlite"\nfiles = ["{file.parent / database}"]\n'


async def check(file: Path, *arguments: str, **environment: str) -> Done:
    return await run_apart(
        "agent", "check", "--config", str(file), *arguments, environment={"NO_COLOR": "1", **environment}
    )


async def test_an_application_that_is_well_is_described_and_the_code_is_0(file: Path) -> None:
    write(file, sqlite(file, "orders"))
    done = await check(file)
    assert (done.code, done.err) == (0, ""), done
    first, *rest = done.out.splitlines()
    assert first.startswith("orders  ")
    assert "sqlite" in first.lower()
    text = " ".join(" ".join(rest).split())
    assert f"data {file.parent} on /" in text
    assert "released by the kernel, when the process ends" in text
    assert "its files lie on one file system" in text
    assert rest[-1].startswith("0 problems")
    assert list((file.parent).glob("orders.db-*")) == [], "a look leaves nothing behind"


async def test_every_application_is_looked_at_whatever_is_wrong_with_another(file: Path) -> None:
    write(file, sqlite(file, "orders") + sqlite(file, "absent", "none.db"))
    done = await check(file)
    assert done.code == ExitCode.UNFIT
    assert "orders  " in done.out
    assert "none.db" in done.out
    assert "HINT: " in done.out
    assert "appvss: a freeze of 1 app would be refused: absent" in done.err


async def test_the_same_as_json(file: Path) -> None:
    write(file, sqlite(file, "orders") + sqlite(file, "absent", "none.db"))
    done = await check(file, "--json")
    assert done.code == ExitCode.UNFIT
    document = done.document
    assert (document["message_type"], document["fit"]) == ("agent_check", False)
    orders, absent = document["apps"]
    assert (orders["app"], orders["adapter"], orders["fit"]) == ("orders", "sqlite", True)
    assert orders["volumes"][0]["path"] == str(file.parent)
    assert file.is_relative_to(orders["volumes"][0]["mount"])
    assert (orders["auto_release"], orders["grade"]) == ("process", "app")
    assert (absent["fit"], "problem" in {finding["grade"] for finding in absent["findings"]}) == (False, True)


async def test_one_application_alone(file: Path) -> None:
    write(file, sqlite(file, "orders") + sqlite(file, "absent", "none.db"))
    done = await check(file, "--app", "orders")
    assert (done.code, "absent" in done.out) == (0, False), done
    done = await check(file, "--app", "order")
    assert done.code == ExitCode.NOT_FOUND
    assert "It has these: orders, absent." in done.err


async def test_a_driver_that_is_missing_is_named_with_its_extra(file: Path) -> None:
    blocked = file.parent / "blocked"
    blocked.mkdir()
    (blocked / "pymysql.py").write_text('raise ModuleNotFoundError("No module named pymysql", name="pymysql")\n')
    write(file, '[apps.shop]\nadapter = "mariadb"\n')
    done = await check(file, PYTHONPATH=str(blocked))
    assert done.code == ExitCode.UNFIT
    assert "pip install 'appvss[mariadb]'" in " ".join(done.out.split()), done


async def test_a_driver_that_prints_and_says_the_password_spoils_nothing_and_shows_nothing(file: Path) -> None:
    odd = file.parent / "odd"
    odd.mkdir()
    (odd / "pymysql.py").write_text(
        'print("welcome")\n'
        "class MySQLError(Exception):\n    pass\n"
        "def __getattr__(name):\n"
        '    raise ValueError("not with hunter2")\n'
    )
    password = file.parent / "password"
    password.write_text("hunter2\n")
    password.chmod(0o600)
    write(file, f'[apps.shop]\nadapter = "mariadb"\npassword = {{ file = "{password}" }}\n' + sqlite(file, "orders"))
    done = await check(file, "--json", PYTHONPATH=str(odd))
    assert done.code == ExitCode.UNFIT, done
    assert "hunter2" not in done.out + done.err
    shop, orders = done.document["apps"]
    assert [finding["check"] for finding in shop["findings"]] == ["look_failed"], shop
    assert "ValueError" in shop["findings"][0]["sentence"]
    assert orders["fit"]


async def test_an_application_that_gives_no_answer_is_given_up(file: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # the kernel takes the connection, and nobody ever answers
        port = listener.getsockname()[1]
        write(file, f'check_timeout = "1s"\n[apps.cache]\nadapter = "redis"\nurl = "redis://127.0.0.1:{port}"\n')
        done = await check(file)
    assert done.code == ExitCode.UNFIT
    assert "redis gave no answer within 1.0s" in done.out


async def test_one_that_has_started_a_program_that_stays_is_given_up_as_well(file: Path) -> None:
    odd = file.parent / "odd"
    odd.mkdir()
    number = file.parent / "pid"
    (odd / "pymysql.py").write_text(
        "import os, time\n"
        "if (pid := os.fork()) == 0:\n"
        "    os.setsid()\n"
        f"else:\n    open({str(number)!r}, 'w').write(str(pid))\n"
        "time.sleep(120)\n"  # both of them, with the same standard output
    )
    write(file, 'check_timeout = "5s"\n[apps.shop]\nadapter = "mariadb"\n')
    try:
        async with asyncio.timeout(2 * BOUND):
            done = await check(file, PYTHONPATH=str(odd))
    finally:
        if number.exists():  # this machine was not too slow for it
            os.kill(int(number.read_text()), signal.SIGKILL)
    assert done.code == ExitCode.UNFIT
    assert "mariadb gave no answer within 5.0s" in done.out


async def test_the_configuration_has_problems(file: Path) -> None:
    write(file, '[apps.one]\nadapter = "sqlight"\n[apps.two]\nadapter = "redis"\npassword = "word"\n')
    done = await check(file)
    assert done.code == ExitCode.CONFIGURATION
    assert "  apps.one.adapter: " in done.err
    assert "  apps.two.password: " in done.err
    assert "HINT: `appvss agent sample ADAPTER`" in done.err
    done = await check(file, "--json")
    assert (done.code, done.out) == (ExitCode.CONFIGURATION, "")


async def test_the_file_may_be_named_before_the_command_as_well(file: Path) -> None:
    write(file, sqlite(file, "orders"))
    done = await run_apart("agent", "--config", str(file), "check", "--file-only")
    assert (done.code, done.out) == (0, f"{file} has no problem\n")


async def test_the_file_alone_is_checked_where_that_is_wanted(file: Path) -> None:
    write(file, sqlite(file, "absent", "none.db"))
    done = await check(file, "--file-only")
    assert (done.code, done.out) == (0, f"{file} has no problem\n")


async def test_nothing_is_left_to_undo(file: Path) -> None:
    write(file, sqlite(file, "orders"))
    done = await run_apart("agent", "undo", "--config", str(file))
    assert (done.code, done.out, done.err) == (0, "", "")


def test_a_sample_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "sample", "sqlite"]) == 0
    assert '[apps.sqlite]\nadapter = "sqlite"\n' in capsys.readouterr().out
    assert run(["agent", "sample", "sqlight"]) == ExitCode.USAGE
    assert "HINT: Did you mean sqlite?" in capsys.readouterr().err


async def test_without_a_file_it_says_which_one_it_looked_for() -> None:
    done = await run_apart("agent", "--config", "/nowhere/agent.toml")
    assert done.code == ExitCode.CONFIGURATION
    assert "/nowhere/agent.toml cannot be read: no such file" in done.err
