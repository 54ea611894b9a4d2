"""What docs/engines/ shows can be written, and what it shows of a program works."""

from __future__ import annotations

import dataclasses
import importlib
import re
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.adapters import ENGINES
from appvss.adapters import exec as hook
from appvss.sdk.freeze import Freeze

DOCS = Path(__file__).parents[2] / "docs" / "engines"
OURS = ("exec", "cgroup", "mongodb", "openldap")
COMMON = {"adapter", "name", "requirement", "password"}


def blocks(engine: str, language: str) -> list[str]:
    text = (DOCS / f"{engine}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("engine", OURS)
def test_what_a_page_configures_the_adapter_takes(engine: str) -> None:
    module = importlib.import_module(ENGINES[engine])
    found = [app for block in blocks(engine, "toml") for app in tomllib.loads(block)["apps"].values()]
    assert found
    for app in found:
        assert app["adapter"] == engine
        given = {name: value for name, value in app.items() if name not in COMMON}
        kinds = {each.name: each.type for each in dataclasses.fields(module.Settings)}
        assert given.keys() <= kinds.keys()
        module.Adapter(module.Settings(**{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}))


@pytest.mark.parametrize("engine", OURS)
def test_every_setting_that_a_page_names_is_one(engine: str) -> None:
    module = importlib.import_module(ENGINES[engine])
    text = (DOCS / f"{engine}.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+) = ", text)) - {"requirement"}
    assert named <= {each.name for each in dataclasses.fields(module.Settings)}


async def test_the_loop_in_a_shell_that_the_page_shows_holds_and_lets_go(tmp_path: Path) -> None:
    (loop,) = blocks("exec", "sh")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nlock={tmp_path}/lock\n{loop}")
    program.chmod(0o755)
    adapter = hook.Adapter(hook.Settings(command=(str(program),)))
    limit = timedelta(seconds=20)
    async with adapter.quiesce(Freeze("c-1", "test", limit, limit)) as evidence:
        assert evidence["marker"] == "c-1"


def test_the_page_has_every_word_of_the_protocol() -> None:
    text = (DOCS / "exec.md").read_text(encoding="utf-8")
    source = "".join(each.read_text(encoding="utf-8") for each in Path(hook.__file__).parent.glob("[ct]*.py"))
    words = set(re.findall(r'"([A-Z]{4,})[" ]', source))
    assert {"PREFLIGHT", "FREEZE", "HELD", "LOST", "UNKNOWN"} <= words
    assert [word for word in sorted(words) if word not in text] == []
