"""Windows against a walk over all the hours, and who meets which budget."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleming_sql.policies.access import Identity
from fleming_sql.policies.budgets import FIRST_SEEN, Foresight, Window, key_of, met, window_of
from fleming_sql.types import Budget

# Clocks change at midnight in Havana, over midnight in Nuuk, by half an hour on Lord Howe; Apia left out a day, and in
# St. John's clocks once went back from 00:01 to the day before.
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "America/Havana", "America/Nuuk", "Australia/Lord_Howe",
    "Pacific/Apia", "America/St_Johns", "Asia/Beirut", "Africa/Cairo", "Asia/Kathmandu", "Pacific/Kiritimati",
)  # fmt: skip
MOMENTS = st.datetimes(datetime(1988, 1, 1), datetime(2035, 12, 31), timezones=st.just(UTC))
WINDOWS = st.sampled_from(get_args(Window))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


@given(WINDOWS, st.sampled_from(ZONES), MOMENTS)
@example("day", "America/St_Johns", utc(2010, 11, 7, 2, 45))
@example("day", "Pacific/Apia", utc(2011, 12, 30, 9, 59))
@example("day", "America/Havana", utc(2026, 11, 1, 5, 30))
def test_a_moment_is_in_its_window(window: Window, zone: str, at: datetime) -> None:
    span = window_of(window, zone, at)
    assert span.start <= at < span.end


@given(WINDOWS, st.sampled_from(ZONES), MOMENTS)
@example("day", "America/St_Johns", utc(2010, 11, 7, 2, 45))
@example("day", "Pacific/Apia", utc(2011, 12, 30, 9, 59))
def test_windows_tile_time(window: Window, zone: str, at: datetime) -> None:
    span = window_of(window, zone, at)
    assert window_of(window, zone, span.end).start == span.end
    assert window_of(window, zone, span.start - timedelta(microseconds=1)).end == span.start


@given(WINDOWS, st.sampled_from(ZONES), MOMENTS, MOMENTS)
def test_later_moments_are_in_no_earlier_windows(window: Window, zone: str, one: datetime, other: datetime) -> None:
    earlier, later = sorted((one, other))
    assert window_of(window, zone, earlier) <= window_of(window, zone, later)


@given(WINDOWS, MOMENTS)
def test_windows_are_those_of_the_calendar(window: Window, at: datetime) -> None:
    start, end = window_of(window, "Europe/Berlin", at)
    local = start.astimezone(ZoneInfo("Europe/Berlin"))
    assert (local.hour, local.minute, local.second) == (0, 0, 0)
    if window == "week":
        assert local.weekday() == 0
    if window == "month":
        assert local.day == 1
    days = {"day": 1, "week": 7}.get(window) or (local.date() - date(local.year, local.month, 1)).days + 28
    assert abs((end - start) - timedelta(days=days)) <= (
        timedelta(days=3, hours=1) if window == "month" else timedelta(hours=1)
    )


@pytest.mark.parametrize(
    ("day", "hours"), [(utc(2026, 3, 29, 12), 23), (utc(2026, 10, 25, 12), 25), (utc(2026, 7, 1, 12), 24)]
)
def test_a_day_on_which_clocks_change_has_23_or_25_hours(day: datetime, hours: int) -> None:
    start, end = window_of("day", "Europe/Berlin", day)
    assert end - start == timedelta(hours=hours)


def test_a_week_begins_on_monday_in_its_time_zone() -> None:
    assert window_of("week", "Asia/Tokyo", utc(2026, 11, 15, 15)).start == utc(2026, 11, 15, 15)  # Monday in Tokyo
    assert window_of("week", "UTC", utc(2026, 11, 15, 15)).start == utc(2026, 11, 9)


def test_where_midnight_comes_twice_the_first_one_counts() -> None:
    assert window_of("day", "America/Havana", utc(2026, 11, 1, 12)).start == utc(2026, 11, 1, 4)


def test_where_midnight_does_not_come_the_day_begins_when_clocks_go_over_it() -> None:
    assert window_of("day", "America/Havana", utc(2026, 3, 8, 12)).start == utc(2026, 3, 8, 5)


def test_a_time_zone_that_the_system_does_not_know_counts_as_utc() -> None:
    assert window_of("day", "SystemV/PST8", utc(2026, 1, 2, 3)).start == utc(2026, 1, 2)


# who meets what


def budget(**columns: Any) -> Budget:
    row: dict[str, Any] = {
        "name": "b", "scope": "global", "principal": None, "endpoint": None, "window": "month", "amount_usd": 1.0,
        "action": "block", "context_key": None, "time_zone": "UTC", "webhook": None,
    }  # fmt: skip
    return Budget(**{**row, **columns})


ADA = Identity("ada", "user", True, frozenset({"research", "all"}))


@pytest.mark.parametrize(
    ("columns", "subject"),
    [
        ({}, None),
        ({"scope": "endpoint", "endpoint": "chat"}, None),
        ({"scope": "user"}, "ada"),
        ({"scope": "user", "principal": "ada"}, "ada"),
        ({"scope": "user", "principal": "ada", "endpoint": "chat"}, "ada"),
        ({"scope": "group", "principal": "research"}, "research"),
        ({"scope": "context", "context_key": "team", "principal": "blue"}, "blue"),
        ({"scope": "context", "context_key": "team"}, "blue"),
    ],
)
def test_a_call_counts_for_a_budget_that_is_about_it(columns: dict[str, Any], subject: str | None) -> None:
    (found,) = met([budget(**columns)], ADA, "chat", {"team": "blue"})
    assert found.subject == subject


@pytest.mark.parametrize(
    "columns",
    [
        {"endpoint": "other"},
        {"scope": "endpoint", "endpoint": "other"},
        {"scope": "user", "principal": "bob"},
        {"scope": "user", "endpoint": "other"},
        {"scope": "group", "principal": "sales"},
        {"scope": "context", "context_key": "team", "principal": "red"},
        {"scope": "context", "context_key": "project"},
    ],
)
def test_a_call_counts_for_no_budget_that_is_about_others(columns: dict[str, Any]) -> None:
    assert met([budget(**columns)], ADA, "chat", {"team": "blue"}) == ()


def test_what_was_spent_does_not_hang_on_name_amount_and_action() -> None:
    assert key_of(budget()) == key_of(budget(name="c", amount_usd=2.0, action="alert", webhook="https://example.com"))
    assert key_of(budget()) != key_of(budget(window="day"))


# how much the next answer may come to


def test_the_first_answers_are_expected_to_be_long() -> None:
    foresight = Foresight(usual=4096, most=131_072)
    assert (foresight.expected, foresight.at_most) == (4096, 131_072)


def test_after_twenty_answers_twice_the_longest_is_expected() -> None:
    foresight = Foresight(usual=4096, most=131_072)
    for _ in range(FIRST_SEEN):
        foresight.add(50)
    assert (foresight.expected, foresight.at_most) == (100, 100)


def test_what_was_longest_is_forgotten_after_a_hundred_answers() -> None:
    foresight = Foresight(usual=4096, most=131_072)
    for tokens in (9000, *[10] * 100):
        foresight.add(tokens)
    assert foresight.expected == 20


@given(st.lists(st.floats(0, 1e6), max_size=150))
def test_no_less_is_reserved_than_is_expected(answers: list[float]) -> None:
    foresight = Foresight(usual=4096, most=131_072)
    for answer in answers:
        foresight.add(answer)
        assert foresight.at_most >= foresight.expected >= 2 * answer
