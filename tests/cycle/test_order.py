"""In which order apps freeze."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from appvss.cycle.order import waves_of
from appvss.model.app import AppId, Registration


def app(name: str, order: int = 50, *after: str, instance: str = "") -> Registration:
    return Registration(AppId(name, instance), order, after)


def names(*registrations: Registration) -> list[set[str]]:
    waves, circle = waves_of(registrations)
    assert not circle
    return [{str(one) for one in wave} for wave in waves]


def test_nobody_makes_no_wave() -> None:
    assert waves_of([]) == ((), frozenset())


def test_apps_of_one_order_make_one_wave() -> None:
    assert names(app("a", 2), app("b", 1), app("c", 2), app("d", -5)) == [{"d"}, {"b"}, {"a", "c"}]


def test_after_adds_a_wave_within_an_order() -> None:
    assert names(app("a"), app("b", 50, "a"), app("c", 50, "b"), app("d")) == [{"a", "d"}, {"b"}, {"c"}]


def test_after_is_stronger_than_a_lower_order() -> None:
    assert names(app("a", 90), app("b", 10, "a"), app("c", 95)) == [{"a"}, {"b"}, {"c"}]


def test_after_an_app_of_lower_order_changes_nothing() -> None:
    assert names(app("a", 10), app("b", 20, "a"), app("c", 20)) == [{"a"}, {"b", "c"}]


def test_after_a_name_that_is_not_registered_does_not_count() -> None:
    assert names(app("a", 50, "nobody")) == [{"a"}]


def test_after_a_name_means_all_its_instances() -> None:
    waves = names(app("a", 10, instance="1"), app("a", 70, instance="2"), app("b", 20, "a"))
    assert waves == [{"a[1]"}, {"a[2]"}, {"b"}]


def test_what_one_instance_comes_after_holds_for_all_of_its_name() -> None:
    assert names(app("a", 50), app("b", 50, "a", instance="1"), app("b", 50, instance="2")) == [{"a"}, {"b[1]", "b[2]"}]


def test_a_circle_is_named_without_those_that_only_wait_for_it() -> None:
    circle = [app("a", 1, "b"), app("b", 2, "c"), app("c", 3, "a")]
    waiting = [app("d", 4, "c"), app("e", 5, "d")]
    assert waves_of([*waiting, *circle, app("f")]) == ((), frozenset("abc"))


def test_an_app_that_waits_for_itself_is_a_circle() -> None:
    assert waves_of([app("a", 50, "a")]) == ((), frozenset("a"))


def test_the_order_of_registration_does_not_matter() -> None:
    registrations = [app("a", 90), app("b", 10, "a"), app("c", 95, "b"), app("d", 10)]
    for chosen in permutations(registrations):
        assert names(*chosen) == [{"d"}, {"a"}, {"b"}, {"c"}]


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.tuples(st.integers(0, 3), st.sets(st.sampled_from("abcdefx"), max_size=3)),
    )
)
def test_every_app_is_in_one_wave_after_all_that_it_names_or_there_is_a_circle(
    apps: dict[str, tuple[int, set[str]]],
) -> None:
    registrations = [app(name, order, *sorted(after)) for name, (order, after) in apps.items()]
    waves, circle = waves_of(registrations)
    if circle:
        assert all(apps[name][1] & circle for name in circle)
        return
    place = {one.name: number for number, wave in enumerate(waves) for one in wave}
    assert sorted(place) == sorted(apps)
    assert sum(len(wave) for wave in waves) == len(apps)
    for name, (order, after) in apps.items():
        assert all(place[other] < place[name] for other in after & apps.keys())
        for other, (lower, _) in apps.items():
            # Without anything to come after, the order decides.
            if lower < order and not apps[other][1] & apps.keys():
                assert place[other] < place[name]
