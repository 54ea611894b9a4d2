from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.broker.configuration import (
    AppOptions,
    Configuration,
    load,
    with_overrides,
)
from appvss.broker.policy import AppPolicy, notes, policy_in_force
from appvss.broker.policy_options import AppPolicyOptions as Rule
from appvss.broker.source_options import SourceOptions
from appvss.model.app import AppId, HoldClaim, Registration, Requirement
from appvss.model.policy import PolicyValue
from appvss.model.source import SourceMode

REQUIRED, TOLERATED, IGNORED = Requirement
SECOND = timedelta(seconds=1)
APP = AppId("orders-db", "2")


def configuration(*rules: Rule, required: tuple[str, ...] = ()) -> Configuration:
    return Configuration(apps=AppOptions(required=required, policy=rules))


def policy(*rules: Rule, required: tuple[str, ...] = ()) -> AppPolicy:
    return AppPolicy(configuration(*rules, required=required))


def row(policy: AppPolicy, key: str, declared: Registration | None = None) -> tuple[str, str] | None:
    """Value and origin of one key, None when it has no row."""
    rows = {value.key: (value.value, value.origin) for value in policy.values(declared or Registration(APP))}
    return rows.get(key)


EXACT, PATTERN, OTHER = Rule("orders-db"), Rule("orders-*"), Rule("stock-*")


@pytest.mark.parametrize("declared", Requirement)
@pytest.mark.parametrize("exact", [None, *Requirement])
@pytest.mark.parametrize("pattern", [None, *Requirement])
@pytest.mark.parametrize("is_required", [False, True])
def test_truth_table_of_the_requirement(
    declared: Requirement, exact: Requirement | None, pattern: Requirement | None, is_required: bool
) -> None:
    desk = policy(
        replace(OTHER, requirement=IGNORED),
        replace(PATTERN, requirement=pattern),
        replace(EXACT, requirement=exact),
        required=(APP.name,) if is_required else (),
    )
    if is_required:
        expected, origin = REQUIRED, "apps.required"
    elif exact is not None:
        expected, origin = exact, 'apps.policy "orders-db"'
    elif pattern is not None:
        expected, origin = pattern, 'apps.policy "orders-*"'
    else:
        expected, origin = declared, "built-in" if declared is REQUIRED else "the app"
    registration = Registration(APP, requirement=declared)
    assert desk.in_force(registration) == replace(registration, requirement=expected)
    assert row(desk, "requirement", registration) == (f'"{expected}"', origin)


@pytest.mark.parametrize(
    ("rule", "declared", "expected", "value"),
    [
        (replace(PATTERN, order=0), {}, {"order": 0}, '0 apps.policy "orders-*"'),
        (replace(PATTERN, order=-1), {"order": 7}, {"order": -1}, '-1 apps.policy "orders-*"'),
        (PATTERN, {"order": 7}, {"order": 7}, "7 the app"),
        (PATTERN, {"order": 50}, {"order": 50}, "50 built-in"),
        (PATTERN, {}, {"freeze_timeout": None}, None),
        (PATTERN, {"freeze_timeout": SECOND}, {"freeze_timeout": SECOND}, '"1s" the app'),
        (
            replace(PATTERN, freeze_timeout=9 * SECOND),
            {"freeze_timeout": SECOND},
            {"freeze_timeout": 9 * SECOND},
            '"9s" apps.policy "orders-*"',
        ),
        (
            replace(PATTERN, freeze_timeout=SECOND),
            {"freeze_timeout": 9 * SECOND},
            {"freeze_timeout": SECOND},
            '"1s" apps.policy "orders-*"',
        ),
        (
            replace(PATTERN, hold_limit=9 * SECOND),
            {"hold_limit": 10 * SECOND},
            {"hold_limit": 9 * SECOND},
            '"9s" apps.policy "orders-*"',
        ),
        (
            replace(PATTERN, hold_limit=9 * SECOND),
            {"hold_limit": 9 * SECOND},
            {"hold_limit": 9 * SECOND},
            '"9s" apps.policy "orders-*"',
        ),
        (
            replace(PATTERN, hold_limit=9 * SECOND),
            {"hold_limit": 8 * SECOND},
            {"hold_limit": 8 * SECOND},
            '"8s" the app',
        ),
        (replace(PATTERN, hold_limit=61 * SECOND), {}, {"hold_limit": 60 * SECOND}, '"1m" built-in'),
        (replace(PATTERN, watch_paths=True), {}, {"watch_paths": True}, 'true apps.policy "orders-*"'),
        (
            replace(PATTERN, watch_paths=False),
            {"watch_paths": True},
            {"watch_paths": False},
            'false apps.policy "orders-*"',
        ),
        (PATTERN, {"watch_paths": True}, {"watch_paths": True}, "true the app"),
        (PATTERN, {}, {"watch_paths": False}, "false built-in"),
    ],
)
def test_what_counts_of_a_value_and_who_said_it(
    rule: Rule, declared: dict[str, object], expected: dict[str, object], value: str | None
) -> None:
    registration = replace(Registration(APP), **declared)  # type: ignore[arg-type]  # the table names the fields
    desk = policy(rule)
    assert desk.in_force(registration) == replace(registration, **expected)  # type: ignore[arg-type]  # as above
    found = row(desk, next(iter(expected)), registration)
    assert (found and " ".join(found)) == value


def test_what_no_rule_can_decide_stays_as_the_app_declares_it() -> None:
    declared = Registration(
        APP, after=("stock-db",), prepares=True, claim=HoldClaim("c1", SECOND), incarnation="x" * 16, set_aside="why"
    )
    everything = Rule("*", IGNORED, 1, SECOND, SECOND, (1,), None, 3, True)
    in_force = policy(everything).in_force(declared)
    assert (in_force.after, in_force.prepares, in_force.claim) == (declared.after, True, declared.claim)
    assert (in_force.incarnation, in_force.set_aside) == (declared.incarnation, "why")


def test_without_any_rule_everything_is_as_declared() -> None:
    declared = Registration(APP, order=3, requirement=IGNORED)
    desk = policy()
    assert desk.in_force(declared) == declared
    assert desk.values(declared) == (
        PolicyValue("requirement", '"ignored"', "the app"),
        PolicyValue("order", "3", "the app"),
        PolicyValue("hold_limit", '"1m"', "built-in"),
        PolicyValue("watch_paths", "false", "built-in"),
        PolicyValue("set_aside_after", "0", "built-in"),
    )
    assert (desk.refusal(APP, None), desk.expected(), desk.set_aside_after(APP)) == ("", (), 0)


def test_a_rule_that_decides_everything_has_a_row_for_each_key() -> None:
    desk = policy(Rule("orders-db", TOLERATED, 5, SECOND, SECOND, (0, 70), True, 3, True))
    origin = 'apps.policy "orders-db"'
    assert desk.values(Registration(APP)) == (
        PolicyValue("requirement", '"tolerated"', origin),
        PolicyValue("order", "5", origin),
        PolicyValue("freeze_timeout", '"1s"', origin),
        PolicyValue("hold_limit", '"1s"', origin),
        PolicyValue("watch_paths", "true", origin),
        PolicyValue("uid", "[0, 70]", origin),
        PolicyValue("present", "true", origin),
        PolicyValue("set_aside_after", "3", origin),
    )


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "a", True),
        ("orders-*", "orders-", True),
        ("orders-*", "orders-db/1@x:2", True),
        ("orders-*", "my-orders-db", False),
        ("*-db", "orders-db", True),
        ("*-db", "orders-db2", False),
        ("db?", "db1", True),
        ("db?", "db", False),
        ("db?", "db12", False),
        ("a.b", "a.b", True),
        ("a.*", "axb", False),
        ("a+*", "aab", False),
        ("Orders", "orders", False),
        ("?*?", "ab", True),
        ("?*?", "a", False),
    ],
)
def test_patterns(pattern: str, name: str, fits: bool) -> None:
    assert policy(Rule(pattern, order=1)).in_force(Registration(AppId(name))).order == (1 if fits else 50)


def test_all_instances_of_a_name_have_one_policy() -> None:
    desk = policy(Rule("web", order=1))
    assert {desk.in_force(Registration(AppId("web", str(number)))).order for number in range(3)} == {1}


def test_a_pattern_full_of_asterisks_takes_no_time() -> None:
    desk = policy(Rule("*a" * 31 + "*b", order=1))
    assert desk.in_force(Registration(AppId("a" * 64))).order == 50


@pytest.mark.parametrize(
    ("uids", "uid", "refusal"),
    [
        (None, None, ""),
        (None, 7, ""),
        ((7,), 7, ""),
        ((0, 7), 0, ""),
        ((7,), 8, 'user 8 may not register as orders-db[2]: apps.policy "orders-*" allows user 7 alone'),
        ((7,), 0, 'user 0 may not register as orders-db[2]: apps.policy "orders-*" allows user 7 alone'),
        (
            (0, 7),
            None,
            'an app without a token may not register as orders-db[2]: apps.policy "orders-*" allows users 0, 7 alone',
        ),
        (
            tuple(range(1, 12)),
            0,
            'user 0 may not register as orders-db[2]: apps.policy "orders-*" allows users 1, 2, 3, 4, 5, 6, 7, 8 and '
            "3 more alone",
        ),
    ],
)
def test_who_may_register(uids: tuple[int, ...] | None, uid: int | None, refusal: str) -> None:
    assert policy(replace(PATTERN, uid=uids)).refusal(APP, uid) == refusal


def test_who_may_register_is_decided_by_the_first_rule_that_names_users() -> None:
    desk = policy(Rule("*", uid=(1,)), Rule("orders-*", uid=(2,)), Rule("orders-db", uid=(3,)))
    admitted = {
        name: [uid for uid in (1, 2, 3) if not desk.refusal(AppId(name), uid)] for name in ("orders-db", "orders-x")
    }
    assert admitted == {"orders-db": [3], "orders-x": [1]}


def test_expected_are_the_required_apps_and_those_that_must_be_present_each_once() -> None:
    desk = policy(
        Rule("c", present=True),
        Rule("a", present=True),
        Rule("d", present=False),
        Rule("e", requirement=REQUIRED),
        required=("b", "a"),
    )
    assert desk.expected() == ("b", "a", "c")


def test_who_must_be_present_need_not_be_required() -> None:
    desk = policy(Rule("orders-db", requirement=TOLERATED, present=True))
    assert desk.in_force(Registration(APP)).requirement is TOLERATED
    assert (desk.expected(), row(desk, "present")) == (("orders-db",), ("true", 'apps.policy "orders-db"'))


def test_a_required_app_must_be_present() -> None:
    assert row(policy(required=("orders-db",)), "present") == ("true", "apps.required")


def test_an_exact_rule_takes_an_app_out_of_what_a_pattern_sets_aside() -> None:
    desk = policy(Rule("*", set_aside_after=3), Rule("orders-db", set_aside_after=0))
    assert (desk.set_aside_after(AppId("web")), desk.set_aside_after(APP)) == (3, 0)
    assert row(desk, "set_aside_after") == ("0", 'apps.policy "orders-db"')


NAMES = st.text("ab", min_size=1, max_size=4)
PATTERNS = st.text("ab*?", min_size=1, max_size=4)
RULES = st.builds(
    Rule,
    st.one_of(NAMES, PATTERNS),
    requirement=st.sampled_from([None, *Requirement]),
    order=st.sampled_from([None, -1, 0, 1]),
    set_aside_after=st.sampled_from([None, 0, 1, 2]),
    watch_paths=st.sampled_from([None, False, True]),
)


@given(st.lists(RULES, max_size=8), st.lists(NAMES, max_size=3, unique=True), NAMES)
def test_each_key_comes_from_the_first_rule_that_fits_and_gives_it_exact_names_first(
    rules: list[Rule], required: list[str], name: str
) -> None:
    desk = policy(*rules, required=tuple(required))
    declared = Registration(AppId(name), order=9)
    in_force = desk.in_force(declared)
    fitting = [rule for rule in rules if fnmatchcase(name, rule.name)]
    fitting.sort(
        key=lambda rule: any(wildcard in rule.name for wildcard in "*?")
    )  # stable: the order of the file stays
    for key, found, otherwise in (
        ("requirement", in_force.requirement, REQUIRED),
        ("order", in_force.order, 9),
        ("watch_paths", in_force.watch_paths, False),
        ("set_aside_after", desk.set_aside_after(declared.app), 0),
    ):
        first = next((rule for rule in fitting if getattr(rule, key) is not None), None)
        if key == "requirement" and name in required:
            assert (found, row(desk, key, declared)) == (REQUIRED, ('"required"', "apps.required"))
            continue
        assert found == (otherwise if first is None else getattr(first, key))
        shown = row(desk, key, declared)
        origin = ("the app" if key == "order" else "built-in") if first is None else f'apps.policy "{first.name}"'
        assert shown is not None
        assert shown[1] == origin


@given(
    st.lists(RULES, max_size=8), NAMES, st.timedeltas(SECOND / 10, 9 * SECOND), st.timedeltas(SECOND / 10, 9 * SECOND)
)
def test_a_hold_limit_is_never_made_longer(rules: list[Rule], name: str, said: timedelta, declared: timedelta) -> None:
    desk = policy(*(replace(rule, hold_limit=said) for rule in rules))
    assert desk.in_force(Registration(AppId(name), hold_limit=declared)).hold_limit <= declared


def test_policy_in_force_has_a_row_for_every_option_and_every_key_of_a_rule(directory: Path) -> None:
    path = directory / "broker.toml"
    path.write_text("""
        [cycle]
        thaw_limit = "5s"
        [sources.local]
        overlap = "queue"
        [apps]
        required = ["a"]
        [[apps.policy]]
        name = "b*"
        order = 1
        hold_limit = "90s"
        [[apps.policy]]
        name = "b*"
        order = 1
        watch_paths = false
        """)
    configuration = with_overrides(load(path), device=Path("/dev/x"))
    rows = policy_in_force(configuration, configuration.overridden)
    values = {value.key: (value.value, value.origin) for value in rows}
    assert len(values) == len(rows)
    assert values["cycle.thaw_limit"] == ('"5s"', str(path))
    assert values["cycle.return_grace"] == ('"5s"', "built-in")
    assert values["sources.local.overlap"] == ('"queue"', str(path))
    assert values["sources.freebsd.overlap"] == ('"refuse"', "built-in")
    assert values["sources.freebsd.device"] == ('"/dev/x"', "command line")
    assert values["apps.required"] == ('["a"]', str(path))
    assert values["history.requirement"] == ('"tolerated"', "built-in")
    assert [
        key for key in values if not key.startswith(("sources.", "cycle.", "apps.", "history.", "filesystems."))
    ] == []
    assert [(value.key, value.value, value.origin) for value in rows[-3:]] == [
        ('apps.policy "b*" order', "1", str(path)),
        ('apps.policy "b*" hold_limit', '"90s"', str(path)),
        ('apps.policy "b*" watch_paths', "false", str(path)),
    ]


def test_policy_in_force_of_the_built_in_values_names_no_file() -> None:
    rows = policy_in_force(Configuration(), frozenset())
    assert {value.origin for value in rows} == {"built-in"}
    assert {"history.keep", "apps.limit", "sources.freebsd.mode", "cycle.prepared_limit"} <= {
        value.key for value in rows
    }


def test_the_longest_name_of_a_file_is_cut_in_its_rows() -> None:
    long = replace(Configuration(), origin="/" + "x" * 4000, given=frozenset({"apps.limit"}))
    (origin,) = {value.origin for value in policy_in_force(long, frozenset())} - {"built-in"}
    assert len(origin) == 120


OFF = {"mode": SourceMode.OFF}


def sources(**parts: dict[str, object]) -> SourceOptions:
    """Those that are not named are off, but for `freebsd` and `local`."""
    kinds = {one.name: one.default_factory for one in fields(SourceOptions)}
    asked = {"freebsd": {}, "local": {}} | parts
    return SourceOptions(**{name: kind(**asked.get(name, OFF)) for name, kind in kinds.items()})


FITS_NOT = "an app that is required fails every such freeze, any other is left out"


@pytest.mark.parametrize(
    ("rule", "sources", "expected"),
    [
        (Rule("a", order=1), sources(), []),
        (Rule("a*"), sources(), ['apps.policy rule 1: it decides nothing about "a*"']),
        (Rule("a", freeze_timeout=9.4 * SECOND), sources(), []),
        (
            Rule("a", freeze_timeout=9.401 * SECOND),
            sources(),
            [
                "apps.policy rule 1, freeze_timeout: 9401ms cannot fit into the 9.4s that sources.freebsd has for the "
                f"apps; {FITS_NOT}"
            ],
        ),
        (Rule("a", freeze_timeout=10 * SECOND), sources(freebsd=OFF), []),
        (
            Rule("a", freeze_timeout=60 * SECOND),
            sources(freebsd={"budget": 8 * SECOND}, local={"mode": SourceMode.REQUIRED}),
            [
                "apps.policy rule 1, freeze_timeout: 1m cannot fit into the 2.4s that sources.freebsd has for the "
                f"apps; {FITS_NOT}",
                "apps.policy rule 1, freeze_timeout: 1m cannot fit into the 29.9s that sources.local has for the "
                f"apps; {FITS_NOT}",
            ],
        ),
        (Rule("a", freeze_timeout=60 * SECOND), sources(freebsd=OFF, local=OFF), []),
        (Rule("a", hold_limit=300 * SECOND), sources(), []),
        (
            Rule("a", hold_limit=301 * SECOND),
            sources(),
            ["apps.policy rule 1, hold_limit: 301s shortens nothing; no source holds longer than 5m"],
        ),
        (
            Rule("a", hold_limit=61 * SECOND),
            sources(local=OFF),
            ["apps.policy rule 1, hold_limit: 61s shortens nothing; no source holds longer than 1m"],
        ),
        (Rule("a", hold_limit=3600 * SECOND), sources(freebsd=OFF, local=OFF), []),
    ],
)
def test_notes_name_what_can_hardly_be_meant(rule: Rule, sources: SourceOptions, expected: list[str]) -> None:
    assert notes(replace(configuration(rule), sources=sources)) == tuple(expected)


def test_notes_count_the_rules_in_the_order_of_the_file() -> None:
    found = notes(configuration(Rule("a", order=1), Rule("b"), Rule("c", order=1), Rule("d")))
    assert [note.partition(":")[0] for note in found] == ["apps.policy rule 2", "apps.policy rule 4"]
