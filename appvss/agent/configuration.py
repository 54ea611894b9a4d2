"""The agent's configuration: which apps there are, each with its adapter and that adapter's settings.

All problems of a file are reported together, each with its whole key. A secret is in none of them.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from appvss.adapters import ENGINES
from appvss.adapters.base import Adapter
from appvss.adapters.errors import AdapterError
from appvss.agent.options import DEFAULT_FILE, AgentOptions, AppOptions
from appvss.agent.schema import Setting, settings_of
from appvss.agent.secret_reference import FileSecret
from appvss.agent.users import user_of
from appvss.model.app import AppId
from appvss.model.errors import ConfigurationInvalid, NameInvalid
from appvss.model.names import check_name, printable
from appvss.model.toml_value import Refused, toml_type
from appvss.service.toml_file import parse_file

APPS_MOST: Final = 200
"""Apps: each is a process of its own."""
HINT: Final = (
    "`appvss agent sample ADAPTER` prints every key with its meaning; `appvss agent check --config FILE` checks again."
)
_SAMPLE_HINT: Final = "Name a file that this user may read; `appvss agent sample ADAPTER` prints one to begin with."
_KEY_SHOWN: Final = 64
_Schema = TypeVar("_Schema")


@dataclass(frozen=True, slots=True)
class AppConfiguration:
    """One app, as the file has it."""

    key: str
    """The NAME of its section, `[apps.NAME]`: unique in the file, and its name in the agent's log."""
    options: AppOptions
    settings: Any = field(repr=False)
    """The `Settings` of its adapter."""
    table: Mapping[str, Any] = field(repr=False)
    """Its section as it was read. It has references to secrets and no secret, and may be given to other processes."""
    undo_limit: timedelta = Adapter.undo_limit
    """How long one undo of its adapter may take."""

    @property
    def name(self) -> str:
        """The app's name, as the broker knows it."""
        return self.options.name or self.key

    @property
    def app(self) -> AppId:
        """The app, as the broker knows it."""
        return AppId(self.name, self.options.instance)

    def adapter(self) -> Adapter[Any]:
        """A new adapter of the app. It has opened nothing yet.

        Raises:
            AdapterError: its settings make no sense, or it cannot be used on this machine.
        """
        made: Adapter[Any] = _module(self.options.adapter).Adapter(self.settings)
        made.app = self.key
        return made


@dataclass(frozen=True, slots=True)
class AgentConfiguration:
    """Everything that an administrator can set."""

    agent: AgentOptions
    apps: Mapping[str, AppConfiguration]
    """By key, in the order of the file."""
    origin: str = ""
    """The file that it was read from."""
    problems: tuple[str, ...] = ()
    """Of apps that are missing here because of them: see `load_sound_apps`."""

    def problems_of(self, key: str) -> str:
        """Why the app of that key is missing here, one sentence; empty: it is not configured."""
        return "; ".join(each for each in self.problems if each.startswith(("apps:", f"apps.{key}.", f"apps.{key}:")))


def load(path: Path | None = None, *, runtime_directory: Path | None = None) -> AgentConfiguration:
    """The configuration of an agent.

    Args:
        path: the file; None: `DEFAULT_FILE`. It must exist: without apps there is nothing to do.
        runtime_directory: the broker's, by the command line; it goes before what the file has.

    Raises:
        ConfigurationUnreadable: the file cannot be read.
        ConfigurationInvalid: it has problems; all of them are in the error.
    """
    path = path or DEFAULT_FILE
    reading = _Reading()
    document = parse_file(path, HINT, _SAMPLE_HINT)
    agent = reading.agent(document)
    apps = reading.apps(document)
    reading.problems.extend(_shared_names(apps))
    if reading.problems:
        raise ConfigurationInvalid(str(path), reading.problems, HINT)
    if runtime_directory is not None:
        agent = replace(agent, runtime_directory=runtime_directory.absolute())
    return AgentConfiguration(agent, apps, str(path))


def load_sound_apps(path: Path | None = None) -> AgentConfiguration:
    """The same with those apps alone whose sections are in order: what is held for one must not stay so for another's
    password file. The rest of the file must have no problem, since it says where undo records are.

    Raises:
        ConfigurationUnreadable, ConfigurationInvalid: as `load` does.
    """
    path = path or DEFAULT_FILE
    reading = _Reading()
    document = parse_file(path, HINT, _SAMPLE_HINT)
    agent = reading.agent(document)
    if reading.problems:
        raise ConfigurationInvalid(str(path), reading.problems, HINT)
    return AgentConfiguration(agent, reading.apps(document), str(path), tuple(reading.problems))


def app_of(key: str, table: Mapping[str, Any]) -> AppConfiguration:
    """One app from its section, as another process was given it.

    Raises:
        ConfigurationInvalid: it has problems.
    """
    reading = _Reading()
    apps = reading.apps({"apps": {key: table}})
    if reading.problems:
        raise ConfigurationInvalid(f"the section of {key}", reading.problems, HINT)
    return apps[key]


def schema_of(adapter: str) -> type[Any]:
    """The `Settings` of an adapter.

    Raises:
        ImportError: this installation does not have the adapter.
    """
    schema: type[Any] = _module(adapter).Settings
    return schema


def _module(adapter: str) -> Any:
    return importlib.import_module(ENGINES[adapter])


class _Reading:
    """A file on its way to values. What is wrong is collected, and the reading goes on."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def agent(self, document: Mapping[str, Any]) -> AgentOptions:
        """The section `[agent]`, and what stands beside the two sections."""
        self._unknown(document, ("agent", "apps"), "")
        return self._values(AgentOptions, self._table(document, "agent"), "agent.")

    def apps(self, document: Mapping[str, Any]) -> dict[str, AppConfiguration]:
        """The sections `[apps.NAME]`; those without a problem."""
        tables = self._table(document, "apps")
        if len(tables) > APPS_MOST:
            self.problems.append(f"apps: there are {len(tables)} of them, over {APPS_MOST}")
            return {}
        read = {key: self._app(key, table) for key, table in tables.items()}
        return {key: app for key, app in read.items() if app is not None}

    def _app(self, key: str, table: object) -> AppConfiguration | None:
        before = len(self.problems)
        prefix = f"apps.{_shown_key(key)}"
        try:
            check_name(key)
        except NameInvalid as error:
            self.problems.append(f"{prefix}: {error.sentence}")
        if not isinstance(table, Mapping):
            self.problems.append(f"{prefix}: this is a section, [{prefix}], and not {toml_type(table)}")
            return None
        common = {each.name for each in settings_of(AppOptions)}
        options = self._values(AppOptions, {k: v for k, v in table.items() if k in common}, f"{prefix}.")
        self._names(options, prefix)
        adapter = table.get("adapter")
        if not isinstance(adapter, str) or adapter not in ENGINES:  # said above: it is missing, or is none of them
            return None
        try:
            schema = schema_of(options.adapter)
        except ImportError as error:
            self.problems.append(f"{prefix}.adapter: {options.adapter} cannot be used here: {printable(str(error))}")
            return None
        own = {k: v for k, v in table.items() if k not in common}
        settings = self._values(schema, own, f"{prefix}.", known=common)
        if len(self.problems) > before:
            return None
        app = AppConfiguration(key, options, settings, dict(table))
        adapter = self._check(app, prefix)
        return None if adapter is None or len(self.problems) > before else replace(app, undo_limit=adapter.undo_limit)

    def _names(self, options: AppOptions, prefix: str) -> None:
        named = [("name", options.name), ("instance", options.instance), *(("after", each) for each in options.after)]
        for key, name in named:
            try:
                if name or key == "after":
                    check_name(name, "app name" if key == "name" else f"name in {key}" if key == "after" else key)
            except NameInvalid as error:
                self.problems.append(f"{prefix}.{key}: {error.sentence}")
        try:
            user_of(options.runs_as)
        except LookupError as error:
            self.problems.append(f"{prefix}.runs_as: {error.args[0]}")

    def _check(self, app: AppConfiguration, prefix: str) -> Adapter[Any] | None:
        """What no value shows alone: the files of secrets, and what the adapter itself says of its settings.

        Returns:
            The adapter; None: its settings make no sense.
        """
        for each in settings_of(type(app.settings)):
            secret = getattr(app.settings, each.name)
            if isinstance(secret, FileSecret):
                self.problems.extend(f"{prefix}.{each.name}: {problem}" for problem in secret.problems())
        try:
            return app.adapter()
        except AdapterError as error:
            self.problems.append(f"{prefix}: {error.sentence}; {error.hint}")
            return None

    def _values(
        self, schema: type[_Schema], table: Mapping[str, Any], prefix: str, known: set[str] | None = None
    ) -> _Schema:
        """The values of a section; a setting with a problem has its default."""
        settings = {each.name: each for each in settings_of(schema)}
        self._unknown(table, (*settings, *(known or ())), prefix)
        values = {
            name: value
            for name, each in settings.items()
            if (value := self._value(each, table, prefix)) is not _NOT_GIVEN
        }
        try:
            return schema(**values)
        except AdapterError as error:
            self.problems.append(f"{prefix.rstrip('.')}: {error.sentence}; {error.hint}")
            return _unchecked(schema)

    def _value(self, each: Setting, table: Mapping[str, Any], prefix: str) -> object:
        if each.name not in table:
            if each.is_needed:
                self.problems.append(f"{prefix}{each.name}: it is missing, and must be given")
            return _NOT_GIVEN
        try:
            return each.kind.read(table[each.name])
        except Refused as error:
            self.problems.append(f"{prefix}{each.name}: {error}")
            return _NOT_GIVEN

    def _table(self, document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        table = document.get(name, {})
        if not isinstance(table, Mapping):
            self.problems.append(f"{name}: this is a section, [{name}], and not {toml_type(table)}")
            return {}
        return table

    def _unknown(self, table: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> None:
        """A value of such a key is never shown: it may be a password whose key is misspelt."""
        for name, value in table.items():
            if name not in known:
                meant = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
                what = "section" if isinstance(value, Mapping) else "key"
                suggestion = f"; did you mean {prefix}{meant[0]}?" if meant else ""
                self.problems.append(f"{prefix}{_shown_key(name)}: there is no such {what}{suggestion}")


_NOT_GIVEN: Final = object()


def _unchecked(schema: type[_Schema]) -> _Schema:
    """An object of a schema whose own check has failed: a place for its name alone, since the file is refused."""
    return object.__new__(schema)


def _shown_key(key: str) -> str:
    return printable(key, _KEY_SHOWN)


def _shared_names(apps: Mapping[str, AppConfiguration]) -> Iterator[str]:
    """Two apps of one name and instance would push each other out for ever."""
    first: dict[AppId, str] = {}
    for key, app in apps.items():
        earlier = first.setdefault(app.app, key)
        if earlier != key:
            yield f"apps.{key}: it has the name {app.app}, as apps.{earlier} has; give one an instance of its own"
