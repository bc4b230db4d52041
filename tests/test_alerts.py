"""Alerts: rows of fleming.alerts and used-up budgets, told in serving.alerts, to a Python function and to a webhook."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Con

import fleming_sql
from fleming_sql.errors import ConfigError
from fleming_sql.maintenance.webhooks import Webhooks
from fleming_sql.store import alerts as alert_store
from fleming_sql.testing import MockModel, Received, Reply, echo_chat
from fleming_sql.types import Alert, Budget, UsedUp

CALLS = "select count(*) from serving.calls"
PATIENCE_S = 20.0


def alert(con: Any, name: str = "busy", query: str = CALLS, threshold: float = 1, **columns: Any) -> None:
    """Add a row to `alerts` that is looked at as often as the test likes, unless the columns say otherwise."""
    row = {"name": name, "query": query, "threshold": threshold, "every": "1 microsecond", **columns}
    names = ", ".join(row)
    con.execute(f"insert into fleming.alerts ({names}) values ({', '.join('?' * len(row))})", list(row.values()))


def look(con: Con) -> str:
    """Have the queries asked now; the maintenance thread does not, as it is started by calls alone."""
    con._session.upkeep._settings()
    return con._session.upkeep.worker.run_now("alerts")


def log_call(con: Con, text: str = "x") -> None:
    con.execute("select ai_query('chat', ?)", [text]).fetchall()
    con.execute("select 1").fetchall()


def raised(con: Any, columns: str = "name, value") -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = con.execute(
        f"select {columns} from fleming.serving.alerts order by alert_time"
    ).fetchall()
    return found


def problems(con: Any) -> list[str]:
    query = "select problem from fleming.config_problems where table_name = 'alerts'"
    return [problem for (problem,) in con.execute(query).fetchall()]


def wait_for_status(con: Con) -> str:
    """Return what came of the webhook of the only alert."""
    wait(webhooks(con)._under_way.copy(), PATIENCE_S)
    con._session.upkeep.worker.run_now("alerts")
    [(status,)] = raised(con, "webhook_status")
    return str(status)


def webhooks(con: Con) -> Webhooks:
    found = con._session.upkeep.alerts._webhooks
    assert isinstance(found, Webhooks)
    return found


@contextmanager
def hook(reply: Callable[[Received], Reply]) -> Iterator[MockModel]:
    with MockModel(reply) as server:
        yield server


BUDGET = Budget(
    name="team",
    scope="user",
    principal=None,
    endpoint=None,
    window="month",
    amount_usd=10.0,
    action="alert",
    context_key=None,
    time_zone="UTC",
    webhook=None,
)
USED_UP = UsedUp(BUDGET, "ada", datetime(2026, 11, 1, tzinfo=UTC), 10.25)


# Queries


def test_an_alert_is_raised_when_the_number_passes_the_threshold(con: Con, model: MockModel) -> None:
    alert(con, threshold=1)
    log_call(con, "a")
    look(con)
    before = raised(con)

    log_call(con, "b")
    look(con)

    assert (before, raised(con)) == ([], [("busy", 2.0)])


def test_an_alert_that_goes_on_is_raised_once(con: Con, model: MockModel) -> None:
    alert(con, threshold=0)
    for text in "abc":
        log_call(con, text)
        look(con)

    assert raised(con) == [("busy", 1.0)]


def test_an_alert_ends_when_the_number_falls_back_and_may_be_raised_again(con: Con, model: MockModel) -> None:
    alert(
        con, query="select 3 - count(*) from serving.calls where request like '%lower%'", comparison=">=", threshold=3
    )
    log_call(con, "a")
    look(con)
    log_call(con, "lower")
    look(con)
    con.execute("delete from fleming.serving.calls where request like '%lower%'")
    log_call(con, "b")
    look(con)

    assert raised(con, "value, ended_at is null") == [(3.0, False), (3.0, True)]


def test_nothing_is_asked_without_new_calls(con: Con, model: MockModel) -> None:
    alert(con)
    log_call(con)
    look(con)

    assert look(con).startswith("0 queries asked")


def test_nothing_is_asked_before_the_time_has_come(con: Con, model: MockModel) -> None:
    alert(con, every="1 hour")
    log_call(con, "a")
    look(con)
    log_call(con, "b")

    assert look(con).startswith("0 queries asked")


def test_a_changed_query_is_asked_at_once(con: Con, model: MockModel) -> None:
    alert(con, threshold=5, every="1 hour")
    log_call(con)
    look(con)

    con.execute("update fleming.alerts set threshold = 0")
    look(con)

    assert raised(con) == [("busy", 1.0)]


@pytest.mark.parametrize(
    ("comparison", "threshold", "holds"),
    [
        (">", 1, False),
        (">", 0.5, True),
        (">=", 1, True),
        ("<", 1, False),
        ("<=", 1, True),
        ("=", 1, True),
        ("<>", 1, False),
    ],
)
def test_each_comparison_compares_as_it_says(con: Con, comparison: str, threshold: float, holds: bool) -> None:
    alert(con, query="select 1", comparison=comparison, threshold=threshold)

    look(con)

    assert bool(raised(con)) is holds


@pytest.mark.parametrize(
    "query", ["select null", "select 1 where false", "select 'nan'::double", "select null::integer"]
)
def test_no_number_does_not_pass_a_threshold(con: Con, query: str) -> None:
    alert(con, query=query, comparison="<>", threshold=7)

    look(con)

    assert raised(con) == []


@pytest.mark.parametrize("query", ["select 2.5::decimal(9, 1)", "select 2.5", "from (values (2.5, 'more'))"])
def test_any_kind_of_number_in_the_first_column_counts(con: Con, query: str) -> None:
    alert(con, query=query)

    look(con)

    assert raised(con) == [("busy", 2.5)]


def test_a_disabled_row_is_not_asked_and_its_alert_ends(con: Con) -> None:
    alert(con, query="select 2")
    look(con)

    con.execute("update fleming.alerts set enabled = false")
    look(con)

    assert raised(con, "ended_at is not null") == [(True,)]


def test_a_restart_does_not_repeat_an_alert(tmp_path: Path) -> None:
    for _ in range(2):
        with fleming_sql.connect(tmp_path / "a.duckdb") as con:
            con.execute("delete from fleming.alerts")
            alert(con, query="select 2")
            look(con)
            found = raised(con)

    assert found == [("busy", 2.0)]


def test_after_a_restart_the_end_of_an_alert_is_seen(tmp_path: Path) -> None:
    with fleming_sql.connect(tmp_path / "a.duckdb") as con:
        alert(con, query="select 2", every="1 hour")
        look(con)
    with fleming_sql.connect(tmp_path / "a.duckdb") as con:
        con.execute("update fleming.alerts set query = 'select 0'")
        look(con)

        assert raised(con, "ended_at is not null") == [(True,)]


def test_a_call_sets_the_queries_going(con: Con, model: MockModel) -> None:
    heard = threading.Event()
    con._session.upkeep.alerts.listen(lambda _: heard.set())
    alert(con, query="select 2")

    log_call(con)

    assert heard.wait(PATIENCE_S)


# Queries that are wrong


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("delete from serving.calls", "is not one SELECT"),
        ("select 1; select 2", "is not one SELECT"),
        ("select 1; drop table serving.calls", "is not one SELECT"),
        ("copy serving.calls to 'calls.csv'", "is not one SELECT"),
        ("", "is not one SELECT"),
        ("selec 1", "syntax error"),
        ("select * from nowhere", "nowhere does not exist"),
        ("select 'many'", "returns a str, not a number"),
        ("select ?", "parameter"),
        ("from store", "store does not exist"),
    ],
)
def test_a_wrong_query_is_told_with_the_name_of_its_row(con: Con, query: str, reason: str) -> None:
    store = [(1,)]  # a Python variable, which a query must not see
    alert(con, query=query)

    with pytest.raises(ConfigError) as caught:
        look(con)

    assert reason in str(caught.value)
    assert str(caught.value).startswith('alert "busy": ')
    assert store


def test_a_query_that_writes_is_refused_however_it_is_dressed(con: Con, model: MockModel) -> None:
    log_call(con)
    alert(con, query="with gone as (delete from serving.calls returning 1) select count(*) from gone")

    with pytest.raises(ConfigError):
        look(con)

    assert con.execute("select count(*) from fleming.serving.calls").fetchall() == [(1,)]


def test_a_wrong_query_does_not_keep_the_others_from_being_asked(con: Con) -> None:
    alert(con, "a", query="select * from nowhere")
    alert(con, "b", query="select 2")

    with pytest.raises(ConfigError):
        look(con)

    assert raised(con) == [("b", 2.0)]


def test_a_wrong_query_is_asked_again_without_new_calls(con: Con) -> None:
    alert(con, query="select n from later")
    with pytest.raises(ConfigError):
        look(con)
    con.execute("use fleming.main; create view later as select 2 as n; use memory")

    look(con)

    assert raised(con) == [("busy", 2.0)]


def test_a_broken_alert_is_told_until_it_succeeds_or_is_removed(con: Con) -> None:
    alert(con, "a", query="select * from nowhere", every="1 hour")
    alert(con, "b", query="select n from later", every="1 hour")
    alert(con, "c", query="select 2")

    for _ in range(2):  # the second time it is not asked
        with pytest.raises(ConfigError, match=r'alert "a": .*nowhere.*alert "b": .*later'):
            look(con)
    con.execute("update fleming.alerts set query = 'select 1' where name = 'b'")
    with pytest.raises(ConfigError, match="nowhere") as caught:
        look(con)
    assert "later" not in str(caught.value)
    con.execute("delete from fleming.alerts where name = 'a'")
    look(con)


def test_a_query_that_takes_too_long_is_broken_off(con: Con, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_store, "ASK_S", 0.1)
    alert(con, "a", query="select sum(a.range * b.range) from range(10000000) a, range(10000000) b")
    alert(con, "b", query="select 2")

    with pytest.raises(ConfigError, match=r"did not end within 0\.1 s"):
        look(con)

    assert raised(con) == [("b", 2.0)]


def test_what_is_wrong_with_a_query_is_in_serving_maintenance(con: Con) -> None:
    alert(con, query="select * from nowhere")
    with pytest.raises(ConfigError):
        look(con)

    [(error,)] = con.execute("select last_error from fleming.serving.maintenance where task = 'alerts'").fetchall()

    assert 'alert "busy": Catalog Error: Table with name nowhere does not exist!' in error


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"comparison": "=="}, 'the comparison of alert "busy" is "==", which does not exist'),
        ({"threshold": float("inf")}, 'the threshold of alert "busy" is inf, not a number to compare with'),
        ({"threshold": float("nan")}, 'the threshold of alert "busy" is nan, not a number to compare with'),
        ({"every": "0 seconds"}, 'alert "busy" is to be looked at every 00:00:00, which is no time'),
        ({"every": "-1 minute"}, 'alert "busy" is to be looked at every -00:01:00, which is no time'),
        ({"query": " "}, 'the query of alert "busy" is empty'),
        ({"webhook": "ftp://key@x"}, 'the webhook of alert "busy" is neither an http or https URL nor a secret'),
        ({"webhook": "https://"}, 'the webhook of alert "busy" is neither an http or https URL nor a secret'),
    ],
)
def test_a_wrong_row_is_a_config_problem(con: Con, columns: dict[str, Any], problem: str) -> None:
    alert(con, **columns)

    assert problems(con) == [problem]


@pytest.mark.parametrize(
    ("webhook", "wrong"), [("ftp://key@x", True), ("https://example.com/hook", False), ("{{secrets/a/b}}", False)]
)
def test_the_webhook_of_a_budget_is_looked_at_and_stops_no_call(con: Con, webhook: str, wrong: bool) -> None:
    con.execute(
        'insert into fleming.budgets (name, scope, "window", amount_usd, action, webhook) '
        "values ('b', 'global', 'day', 1, 'block', ?)",
        [webhook],
    )

    con.execute("use fleming.main")
    found = con.execute("select problem, stops from __problems_of_budgets() where column_name = 'webhook'").fetchall()
    con.execute("use memory")

    assert found == [('the webhook of the budget "b" is neither an http or https URL nor a secret', [])][: int(wrong)]


@pytest.mark.parametrize("webhook", ["https://example.com/hook", "http://localhost:1", "{{secrets/team/hook}}", None])
def test_a_right_row_is_none(con: Con, webhook: str | None) -> None:
    alert(con, webhook=webhook)

    assert problems(con) == []


def test_a_row_that_is_a_config_problem_is_not_asked_and_stops_no_call(con: Con, model: MockModel) -> None:
    alert(con, query="select 2", comparison="==")

    log_call(con)
    look(con)

    assert raised(con) == []


# Budgets


def test_a_budget_that_is_used_up_raises_an_alert(con: Con) -> None:
    con._session.upkeep.alerts.used_up(USED_UP)
    look(con)

    assert raised(con, "kind, name, subject, window_start, value, threshold, message, ended_at") == [
        (
            "budget",
            "team",
            "ada",
            datetime(2026, 11, 1),
            10.25,
            10.0,
            'budget "team" of "ada" is used up: 10.25 of 10 US dollars spent in the month since 2026-11-01 00:00 UTC',
            None,
        )
    ]


def test_a_budget_raises_its_alert_once_for_each_subject_and_window(con: Con) -> None:
    december = datetime(2026, 12, 1, tzinfo=UTC)
    everybodys = replace(USED_UP, subject=None)
    for event in (USED_UP, USED_UP, everybodys, everybodys, replace(USED_UP, window_start=december)):
        con._session.upkeep.alerts.used_up(event)
    look(con)

    assert sorted(raised(con, "coalesce(subject, '-'), month(window_start)")) == [("-", 11), ("ada", 11), ("ada", 12)]


def test_a_restart_does_not_repeat_the_alert_of_a_budget(tmp_path: Path) -> None:
    for _ in range(2):
        with fleming_sql.connect(tmp_path / "a.duckdb") as con:
            con._session.upkeep.alerts.used_up(USED_UP)
            look(con)
            found = raised(con)

    assert len(found) == 1


def test_a_budget_that_is_used_up_just_before_closing_is_written(tmp_path: Path) -> None:
    with fleming_sql.connect(tmp_path / "a.duckdb") as con:
        con._session.upkeep.worker.close()  # as if the thread had no time for it
        con._session.upkeep.alerts.used_up(USED_UP)
    with fleming_sql.connect(tmp_path / "a.duckdb") as con:
        assert raised(con) == [("team", 10.25)]


# Python


def test_on_alert_is_called_with_what_the_table_has(tmp_path: Path) -> None:
    heard: list[Alert] = []
    with fleming_sql.connect(on_alert=heard.append) as con:
        alert(con, query="select 2")
        look(con)
        [(alert_id, at, message)] = raised(con, "alert_id, alert_time, message")

    assert heard == [Alert(alert_id, at.replace(tzinfo=UTC), "query", "busy", None, None, 2.0, 1.0, message)]


def test_attach_takes_on_alert_too_and_calls_it_once() -> None:
    heard: list[Alert] = []
    called = threading.Event()

    def listen(found: Alert) -> None:
        heard.append(found)
        called.set()

    bare = duckdb.connect()
    fleming_sql.attach(bare, on_alert=listen)
    fleming_sql.attach(bare, on_alert=listen)
    try:
        alert(bare, query="select 2")
        bare.execute("from fleming.serving.maintenance").fetchall()
        assert called.wait(PATIENCE_S)
    finally:
        fleming_sql.detach(bare)

    assert [found.name for found in heard] == ["busy"]


@pytest.mark.parametrize("error", [OSError("no mail"), SystemExit(1)])
def test_what_on_alert_raises_is_logged_and_harms_nothing(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def fail(_: Alert) -> None:
        raise error

    with caplog.at_level(logging.ERROR, "fleming_sql"), fleming_sql.connect(on_alert=fail) as con:
        alert(con, query="select 2")
        look(con)
        found = raised(con)

    assert found == [("busy", 2.0)]
    assert "on_alert failed for the alert busy" in caplog.text


# Webhooks


def test_a_webhook_gets_the_alert_as_json(con: Con) -> None:
    with hook(lambda _: Reply()) as server:
        alert(con, query="select 2", webhook=server.url + "/hook")
        look(con)
        status = wait_for_status(con)

        [request] = server.requests
    body = json.loads(request.body)
    assert (status, request.path, request.headers["content-type"]) == ("200", "/hook", "application/json")
    assert (body["name"], body["value"], body["threshold"], body["message"]) == (
        "busy",
        2.0,
        1.0,
        'alert "busy": 2 > 1',
    )
    assert body["alert_time"].endswith("Z")


def test_the_webhook_of_a_budget_is_told(con: Con) -> None:
    with hook(lambda _: Reply()) as server:
        con._session.upkeep.alerts.used_up(replace(USED_UP, budget=replace(BUDGET, webhook=server.url)))
        look(con)
        status = wait_for_status(con)

        assert (status, json.loads(server.requests[0].body)["kind"]) == ("200", "budget")


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_webhook_that_fails_is_tried_three_times(con: Con, code: int) -> None:
    with hook(lambda _: Reply(code)) as server:
        alert(con, query="select 2", webhook=server.url)
        look(con)
        status = wait_for_status(con)

        assert (status, server.request_count) == (f"HTTP {code} after 3 tries", 3)


def test_a_webhook_that_recovers_is_told(con: Con) -> None:
    with hook(lambda _: Reply(500 if server.request_count < 2 else 204)) as server:
        alert(con, query="select 2", webhook=server.url)
        look(con)

        assert wait_for_status(con) == "204"


def test_a_webhook_that_refuses_is_not_tried_again(con: Con) -> None:
    with hook(lambda _: Reply(404)) as server:
        alert(con, query="select 2", webhook=server.url)
        look(con)

        assert (wait_for_status(con), server.request_count) == ("HTTP 404", 1)


def test_redirects_are_not_followed(con: Con) -> None:
    with (
        hook(lambda _: Reply()) as elsewhere,
        hook(lambda _: Reply(307, headers={"Location": elsewhere.url})) as server,
    ):
        alert(con, query="select 2", webhook=server.url)
        look(con)

        assert wait_for_status(con) == "HTTP 307: redirects are not followed"
        assert elsewhere.request_count == 0


def test_nobody_at_the_address_is_told_without_the_address(con: Con) -> None:
    with hook(lambda _: Reply()) as server:
        url = server.url
    alert(con, query="select 2", webhook=f"{url}/key")
    look(con)

    assert wait_for_status(con) == "no connection after 3 tries"


def test_a_webhook_that_hangs_has_a_deadline(con: Con) -> None:
    with hook(lambda _: Reply(hang=True)) as server:
        webhooks(con)._deadline_s = 0.2
        alert(con, query="select 2", webhook=server.url)
        look(con)

        assert wait_for_status(con) == "no answer within 0.2 s"


def test_a_webhook_that_hangs_holds_up_neither_calls_nor_other_alerts(con: Con, model: MockModel) -> None:
    with hook(lambda _: Reply(hang=True)) as server:
        alert(con, "a", query="select 2", webhook=server.url)
        look(con)
        server.wait_until(lambda server: server.in_flight == 1)

        alert(con, "b", query="select 3")
        log_call(con)
        look(con)

        assert server.in_flight == 1
        assert raised(con, "name, webhook_status") == [("a", None), ("b", None)]
        webhooks(con).close()


def test_closing_breaks_off_a_webhook_that_hangs(tmp_path: Path) -> None:
    with hook(lambda _: Reply(hang=True)) as server:
        with fleming_sql.connect(tmp_path / "a.duckdb") as con:
            alert(con, query="select 2", webhook=server.url)
            look(con)
            server.wait_until(lambda server: server.in_flight == 1)
            began = time.monotonic()
        took = time.monotonic() - began
        server.wait_until(lambda server: server.abandoned == 1)
    with duckdb.connect(str(tmp_path / "a.fleming.duckdb")) as store:
        [(status,)] = store.execute("select webhook_status from serving.alerts").fetchall()

    assert (status, took < 8) == ("not told: the gateway was closed", True)


def test_the_address_may_be_a_secret(con: Con, monkeypatch: pytest.MonkeyPatch) -> None:
    with hook(lambda _: Reply()) as server:
        monkeypatch.setenv("ALERT_HOOK", server.url + "/secret-path")
        con.execute(
            "insert into fleming.credentials (name, source, reference) values ('team/hook', 'env', 'ALERT_HOOK')"
        )
        alert(con, query="select 2", webhook="{{secrets/team/hook}}")
        look(con)

        assert (wait_for_status(con), server.requests[0].path) == ("200", "/secret-path")


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, 'the credential "team/hook" cannot be read: the environment variable ALERT_HOOK is not set or empty'),
        ("file:///etc/key-1234", "not told: the webhook is not an http or https URL"),
        ("http://key-1234:0", "no connection after 3 tries"),
        ("http://[key-1234", "no connection after 3 tries"),
    ],
)
def test_no_text_shows_a_secret_address(
    con: Con, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str | None, status: str
) -> None:
    if value:
        monkeypatch.setenv("ALERT_HOOK", value)
    con.execute("insert into fleming.credentials (name, source, reference) values ('team/hook', 'env', 'ALERT_HOOK')")
    alert(con, query="select 2", webhook="{{secrets/team/hook}}")
    with caplog.at_level(logging.DEBUG):
        look(con)

        assert wait_for_status(con).startswith(status)
    assert "key-1234" not in caplog.text
    assert "key-1234" not in str(raised(con, "*"))


def test_a_credential_that_does_not_exist_is_told(con: Con) -> None:
    alert(con, query="select 2", webhook="{{secrets/team/none}}")
    look(con)

    assert wait_for_status(con).startswith('the credential "team/none" does not exist')


def test_calls_are_answered_while_alerts_fail_in_every_way(con: Con, add_endpoint: AddEndpoint) -> None:
    with MockModel(echo_chat) as model, hook(lambda _: Reply(500)) as server:
        add_endpoint(con, base_url=model.url)
        alert(con, "a", query="select * from nowhere")
        alert(con, "b", query="select 2", webhook=server.url)

        found = con.execute("select count(ai_query('chat', 'q' || i)) from range(200) t(i)").fetchall()

    assert found == [(200,)]
