"""The agent's configuration: what is taken, and what is refused with its whole key, all at once, without a secret."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.adapters import ENGINES
from appvss.adapters.errors import SettingInvalid
from appvss.agent import configuration_text
from appvss.agent.configuration import AgentConfiguration, load, schema_of
from appvss.agent.options import AdapterWord, AgentOptions, AppOptions, LogFormat
from appvss.agent.schema import kind_of, settings_of
from appvss.agent.undo_places import make_places, place_of
from appvss.model.errors import ConfigurationInvalid, ConfigurationUnreadable, UsageError

SECRET = "hunter2-never-shown"
HERE = []
for _word in ENGINES:
    try:
        schema_of(_word)
    except ImportError:
        continue
    HERE.append(_word)


def read(tmp_path: Path, text: str) -> AgentConfiguration:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    return load(file)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationInvalid) as caught:
        read(tmp_path, text)
    assert SECRET not in f"{caught.value} {caught.value.problems} {caught.value.__cause__!r}"
    return list(caught.value.problems)


def app(**keys: str) -> str:
    return "[apps.orders]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


REDIS = {"adapter": '"redis"'}
EXEC = {"adapter": '"exec"', "command": '["/bin/true"]'}


def test_the_words_for_adapters_are_those_that_there_are() -> None:
    assert [str(word) for word in AdapterWord] == list(ENGINES)


def test_ten_lines_make_an_app(tmp_path: Path) -> None:
    configuration = read(
        tmp_path,
        '[agent]\nlog_format = "json"\nruntime_directory = "/run/appvss"\n'
        + app(**EXEC, order="20", after='["web"]', hold_limit='"1m30s"', requirement='"tolerated"', thaw_limit='"2s"'),
    )
    orders = configuration.apps["orders"]
    assert configuration.agent.log_format is LogFormat.JSON
    assert configuration.agent.runtime_directory == Path("/run/appvss")
    assert (orders.name, orders.options.order, orders.options.after) == ("orders", 20, ("web",))
    assert orders.options.hold_limit == timedelta(seconds=90)
    assert orders.settings.command == ("/bin/true",)
    assert orders.settings.thaw_limit == timedelta(seconds=2)
    assert orders.adapter().app == "orders"


def test_the_command_line_goes_before_the_runtime_directory_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[agent]\nruntime_directory = "/run/one"\n')
    assert load(file, runtime_directory=Path("/run/two")).agent.runtime_directory == Path("/run/two")


def test_every_problem_is_reported_with_its_whole_key(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        '[agnt]\nx = 1\n[agent]\nlog_level = "loud"\nstop_timeout = 3\n'
        '[apps.one]\nadapter = "postgers"\n'
        '[apps.two]\nfreeze_timeout = "soon"\n'
        '[apps.three]\nadapter = "exec"\ncommand = "/bin/true"\nordr = 3\nrequirement = "maybe"\nworth = 7\n',
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "agnt",
        "agent.log_level",
        "agent.stop_timeout",
        "apps.one.adapter",
        "apps.two.adapter",
        "apps.two.freeze_timeout",
        "apps.three.requirement",
        "apps.three.ordr",
        "apps.three.command",
        "apps.three.worth",
    ]
    assert "did you mean agent?" in found[0]
    assert "without a unit" in found[2]
    assert '"postgresql"' in found[3]
    assert "must be given" in found[4]
    assert "did you mean apps.three.order?" in found[7]
    assert "not a list of texts" in found[8]


@pytest.mark.parametrize(
    ("keys", "key", "said"),
    [
        ({**EXEC, "name": '"a b"'}, "name", "not allowed"),
        ({**EXEC, "instance": '"a b"'}, "instance", "not allowed"),
        ({**EXEC, "after": '["a b"]'}, "after", "not allowed"),
        ({**EXEC, "runs_as": '"nobody-of-that-name"'}, "runs_as", "there is no user"),
        ({**EXEC, "hold_limit": '"0s"'}, "hold_limit", "not above zero"),
        ({**EXEC, "hold_limit": '"48h"'}, "hold_limit", "at most 24h"),
        ({**EXEC, "order": "1.5"}, "order", "a number, not a whole number"),
        ({**EXEC, "order": "99999999999"}, "order", "32 bits"),
        ({**EXEC, "order": "1979-05-27"}, "order", "a date or a time"),
        ({"adapter": '"redis"', "password": "{}"}, "password", "exactly one of"),
        ({"adapter": '"redis"', "password": '{ file = "relative" }'}, "password", "absolute"),
        ({"adapter": '"redis"', "password": '{ credential = "../x" }'}, "password", "without a /"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(tmp_path: Path, keys: dict[str, str], key: str, said: str) -> None:
    (problem,) = problems(tmp_path, app(**keys))
    assert problem.startswith(f"apps.orders.{key}: ")
    assert said in problem


@pytest.mark.parametrize("value", ['["redis"]', "{ redis = true }", "7", '""'])
def test_an_adapter_is_one_of_the_words(tmp_path: Path, value: str) -> None:
    (problem,) = problems(tmp_path, app(adapter=value))
    assert problem.startswith("apps.orders.adapter: ")


def test_an_app_whose_place_cannot_be_made_keeps_no_other_from_its_own(tmp_path: Path) -> None:
    apps = [app(**EXEC).replace("orders", name) for name in ("one", "two")]
    configuration = read(tmp_path, "".join(apps))
    undo = tmp_path / "undo"
    undo.mkdir()
    place_of(undo, "one").write_text("in the way")
    assert make_places(undo, configuration.apps.values()).startswith(f"{undo} is not usable for one: ")
    assert place_of(undo, "two").is_dir()


def test_what_an_adapter_says_of_its_settings_is_a_problem_of_its_app(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, app(adapter='"exec"', freeze='["/bin/true"]'))
    assert problem.startswith("apps.orders: ")
    assert "belong together" in problem


def test_two_apps_of_one_name_are_refused_unless_an_instance_tells_them_apart(tmp_path: Path) -> None:
    one, two = app(**EXEC, name='"shop"'), app(**EXEC, name='"shop"').replace("orders", "stock")
    (problem,) = problems(tmp_path, one + two)
    assert problem.startswith("apps.stock: it has the name shop, as apps.orders has")
    assert len(read(tmp_path, one + two + 'instance = "2"\n').apps) == 2
    (problem,) = problems(tmp_path, one + one)
    assert problem.startswith("line 5")


# -- secrets


@pytest.mark.parametrize(
    "keys",
    [
        {**REDIS, "password": f'"{SECRET}"'},
        {**REDIS, "password": f'["{SECRET}"]'},
        {**REDIS, "password": f'{{ text = "{SECRET}" }}'},
        {**REDIS, "password": f'{{ file = "{SECRET}" }}'},
        {**REDIS, "passwords": f'"{SECRET}"'},
        {**REDIS, "name": f'"redis://:{SECRET}@db/0"'},
        {**REDIS, "name": f'"host=db password={SECRET}"'},
        {**REDIS, "name": f'"postgresql://db/shop?sslpassword={SECRET}"'},
        {**REDIS, "order": f'"postgres://shop:{SECRET}@db"'},
        {"adapter": '"exec"', "command": f'["/bin/true", "--password={SECRET}"]'},
        {**EXEC, "environment": f'["PGPASSWORD={SECRET}"]'},
        {**EXEC, "hold_limit": f'"password={SECRET}"'},
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path, keys: dict[str, str]) -> None:
    found = problems(tmp_path, app(**keys))  # which looks for the secret
    assert found


def test_a_literal_secret_is_refused_with_the_three_ways_to_give_it(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, app(**REDIS, password=f'"{SECRET}"'))
    assert all(way in problem for way in ("file =", "environment =", "credential ="))


def secret_file(tmp_path: Path, mode: int, text: str = f"{SECRET}\n") -> Path:
    file = tmp_path / "password"
    file.write_text(text)
    file.chmod(mode)
    return file


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_a_file_that_is_closed_to_others_is_read_anew_each_time(tmp_path: Path, mode: int) -> None:
    file = secret_file(tmp_path, mode)
    configuration = read(tmp_path, app(**REDIS, password=f'{{ file = "{file}" }}'))
    secret = configuration.apps["orders"].settings.password
    assert secret.reveal() == SECRET
    assert SECRET not in repr(configuration)
    file.chmod(0o600)
    file.write_text("another")
    assert secret.reveal() == "another"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o602, 0o601])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    file = secret_file(tmp_path, 0o600)
    text = app(**REDIS, password=f'{{ file = "{file}" }}')
    secret = read(tmp_path, text).apps["orders"].settings.password
    file.chmod(mode)
    (problem,) = problems(tmp_path, text)
    assert f"{mode:04o}" in problem
    assert "chmod 0600" in problem
    with pytest.raises(SettingInvalid, match="open to others"):
        secret.reveal()


def test_a_secret_that_is_not_there_says_where_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(tmp_path, app(**REDIS, password='{ file = "/nowhere/at/all" }'))
    assert "/nowhere/at/all cannot be read: no such file" in problem
    monkeypatch.delenv("ORDERS_PASSWORD", raising=False)
    secret = (
        read(tmp_path, app(**REDIS, password='{ environment = "ORDERS_PASSWORD" }')).apps["orders"].settings.password
    )
    with pytest.raises(SettingInvalid, match="ORDERS_PASSWORD is not set"):
        secret.reveal()
    monkeypatch.setenv("ORDERS_PASSWORD", SECRET)
    assert secret.reveal() == SECRET


def test_a_credential_of_systemd_is_read_from_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = read(tmp_path, app(**REDIS, password='{ credential = "orders" }')).apps["orders"].settings.password
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(SettingInvalid, match="CREDENTIALS_DIRECTORY is not set") as caught:
        secret.reveal()
    assert "LoadCredential=orders" in caught.value.hint
    (tmp_path / "orders").write_text(SECRET)
    (tmp_path / "orders").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert secret.reveal() == SECRET


def test_a_secret_that_is_no_text_or_no_file_is_refused_without_its_content(tmp_path: Path) -> None:
    file = secret_file(tmp_path, 0o600)
    secret = read(tmp_path, app(**REDIS, password=f'{{ file = "{file}" }}')).apps["orders"].settings.password
    file.write_bytes(SECRET.encode() + b"\xff")
    with pytest.raises(SettingInvalid, match="not UTF-8") as caught:
        secret.reveal()
    assert caught.value.__cause__ is None
    assert SECRET not in str(caught.value)
    file.write_text("x" * 70_000)
    with pytest.raises(SettingInvalid, match="more than"):
        secret.reveal()
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(SettingInvalid, match="no regular file"):
        secret.reveal()


# -- the file


def test_a_file_that_is_not_there_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationUnreadable, match="no such file") as caught:
        load(tmp_path / "none.toml")
    assert "appvss agent sample" in caught.value.hint
    (problem,) = problems(tmp_path, "[apps.orders\n")
    assert problem.startswith("line 1, column")
    (problem,) = problems(tmp_path, "apps = 3\n")
    assert "this is a section, [apps]" in problem
    (problem,) = problems(tmp_path, "apps.x = 3\n")
    assert "this is a section, [apps.x]" in problem


def test_a_name_that_no_app_can_have_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, '[apps."a b\\n"]\nadapter = "exec"\ncommand = ["/bin/true"]\n')
    assert "not allowed" in problem
    assert "\n" not in problem


# -- the schema


@pytest.mark.parametrize("word", HERE)
def test_every_setting_of_every_adapter_can_be_written_read_and_explained(word: str) -> None:
    common = {each.name for each in settings_of(AppOptions)}
    for each in settings_of(schema_of(word)):
        assert each.name not in common, f"{each.name} is a setting of every app already"
        assert each.meaning.endswith((".", ".)", "`")), each
        if each.example not in (None, "") and each.default is not None:
            each.kind.write(each.example)


@contextlib.contextmanager
def problems_if_any() -> Iterator[list[str]]:
    found: list[str] = []
    try:
        yield found
    except ConfigurationInvalid as error:
        found.extend(error.problems)


@pytest.mark.parametrize("word", HERE)
def test_a_sample_is_a_configuration_as_it_is_printed(tmp_path: Path, word: str) -> None:
    text = configuration_text.sample(word)
    keys = {each.name for schema in (schema_of(word), AppOptions, AgentOptions) for each in settings_of(schema)}
    shown = {line.lstrip("#").partition(" = ")[0] for line in text.splitlines() if " = " in line and line[1] != " "}
    assert shown == keys
    with problems_if_any() as found:
        read(tmp_path, text)
    assert not found


def test_there_is_no_sample_for_an_adapter_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="no adapter 'postgres'") as caught:
        configuration_text.sample("postgres")
    assert "postgresql" in caught.value.hint


def test_a_setting_of_an_unknown_type_is_a_mistake_of_the_adapter() -> None:
    with pytest.raises(TypeError, match="cannot be of the type"):
        kind_of(float)


def test_the_page_of_all_settings_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "agent.md"
    assert page.read_text(encoding="utf-8") == configuration_text.reference(), "run `python docs/generate.py`"
