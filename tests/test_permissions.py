"""Who may call: rows of principals, group_members and permissions, as they look from SQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Serve

import fleming_sql
from fleming_sql import Connection, FlemingError
from fleming_sql.testing import MockModel, Received, Reply, chat_reply

Join = Callable[..., Connection]


def ask(con: Any, text: str = "x") -> Any:
    return con.execute("select ai_query('chat', ?)", [text]).fetchall()[0][0]


def denied(con: Any, text: str = "x") -> str:
    with pytest.raises(duckdb.Error, match="PERMISSION_DENIED") as caught:
        ask(con, text)
    return str(caught.value)


def principal(con: Any, name: str, kind: str = "user", enabled: bool = True) -> None:
    con.execute("insert into fleming.principals (name, type, enabled) values (?, ?, ?)", [name, kind, enabled])


def member(con: Any, group: str, name: str) -> None:
    con.execute("insert into fleming.group_members values (?, ?)", [group, name])


def permit(con: Any, name: str, kind: str = "user", privilege: str = "CAN_QUERY", endpoint: str = "chat") -> None:
    con.execute("insert into fleming.permissions values (?, ?, ?, ?)", [endpoint, kind, name, privilege])


@pytest.fixture
def closed(con: Connection, model: MockModel) -> Connection:
    """Ada's connection to an endpoint that only bob may call."""
    principal(con, "bob")
    permit(con, "bob")
    return con


@pytest.fixture
def join(request: pytest.FixtureRequest, add_endpoint: AddEndpoint, model: MockModel) -> Iterator[Join]:
    """Connect to one database, as anybody; the endpoint is `model`'s."""
    with ExitStack() as opened:

        def connect(user: str, *groups: str) -> Connection:
            return opened.enter_context(fleming_sql.connect(f":memory:{id(request)}", user=user, groups=groups))

        add_endpoint(connect("owner"), base_url=model.url, cache_ttl_seconds=3600)
        yield connect


def test_an_endpoint_without_permissions_is_open(con: Connection, model: MockModel) -> None:
    principal(con, "bob")
    permit(con, "bob", endpoint="chat")
    con.execute("delete from fleming.permissions")

    assert ask(con) == "echo: x"


def test_the_permissions_of_another_endpoint_do_not_close_this_one(
    closed: Connection, model: MockModel, add_endpoint: AddEndpoint
) -> None:
    add_endpoint(closed, "open", base_url=model.url)

    assert closed.execute("select ai_query('open', 'x')").fetchall() == [("echo: x",)]


def test_an_endpoint_with_permissions_is_closed_to_all_others(closed: Connection, model: MockModel) -> None:
    text = denied(closed)

    assert "HTTP status 403" in text
    assert model.request_count == 0


def test_the_message_names_the_caller_the_privilege_and_the_table(closed: Connection) -> None:
    text = denied(closed)

    assert '"ada"' in text
    assert '"chat"' in text
    assert "CAN_QUERY" in text
    assert "fleming.permissions" in text


def test_a_denied_call_is_logged_with_its_requester_and_without_attempts(closed: Connection, model: MockModel) -> None:
    denied(closed)

    assert closed.execute(
        "select requester, status_code, error_code, attempts, served_entity_id, endpoint_name "
        "from fleming.serving.inference"
    ).fetchall() == [("ada", 403, "PERMISSION_DENIED", 0, None, "chat")]
    assert model.request_count == 0


def test_all_rows_of_a_denied_batch_fail_alike_and_are_logged(closed: Connection, model: MockModel) -> None:
    rows = closed.execute(
        "select (ai_query('chat', 'q' || i, failOnError => false)).errorMessage from range(50) t(i)"
    ).fetchall()

    assert all("PERMISSION_DENIED" in message for (message,) in rows)
    assert closed.execute(
        "select count(*), count(distinct status_code), min(status_code) from fleming.serving.inference"
    ).fetchall() == [(50, 1, 403)]
    assert model.request_count == 0


@pytest.mark.parametrize("privilege", ["CAN_QUERY", "CAN_MANAGE"])
def test_a_privilege_to_query_or_manage_lets_through(closed: Connection, privilege: str) -> None:
    principal(closed, "ada")
    permit(closed, "ada", privilege=privilege)

    assert ask(closed) == "echo: x"


def test_a_privilege_to_view_does_not(closed: Connection, model: MockModel) -> None:
    principal(closed, "ada")
    permit(closed, "ada", privilege="CAN_VIEW")

    denied(closed)
    assert model.request_count == 0


def test_a_privilege_to_view_alone_closes_the_endpoint(con: Connection, model: MockModel) -> None:
    principal(con, "bob")
    permit(con, "bob", privilege="CAN_VIEW")

    denied(con)


def test_a_group_that_the_connection_claims_lets_through(join: Join) -> None:
    owner = join("owner")
    principal(owner, "analysts", "group")
    permit(owner, "analysts", "group")

    assert ask(join("ada", "analysts")) == "echo: x"
    denied(join("ada"))
    denied(join("ada", "others"))


def test_a_group_that_the_rows_name_lets_through(closed: Connection) -> None:
    principal(closed, "analysts", "group")
    principal(closed, "ada")
    member(closed, "analysts", "ada")
    permit(closed, "analysts", "group")

    assert ask(closed) == "echo: x"


def test_a_group_within_groups_lets_through(closed: Connection) -> None:
    principal(closed, "ada")
    for number in range(5):
        principal(closed, f"g{number}", "group")
        member(closed, f"g{number}", f"g{number - 1}" if number else "ada")
    permit(closed, "g4", "group")

    assert ask(closed) == "echo: x"


def test_groups_above_a_claimed_group_let_through(join: Join) -> None:
    owner = join("owner")
    for name in ("team", "company"):
        principal(owner, name, "group")
    member(owner, "company", "team")
    permit(owner, "company", "group")

    assert ask(join("ada", "team")) == "echo: x"


def test_a_membership_does_not_go_downwards(join: Join) -> None:
    owner = join("owner")
    for name in ("team", "company"):
        principal(owner, name, "group")
    member(owner, "company", "team")
    permit(owner, "team", "group")

    denied(join("ada", "company"))


def test_a_cycle_of_groups_is_a_problem_that_is_told_and_not_a_hang(closed: Connection, model: MockModel) -> None:
    for name in ("a", "b"):
        principal(closed, name, "group")
    member(closed, "a", "b")
    member(closed, "b", "a")
    permit(closed, "a", "group")

    problems = closed.execute("select problem from fleming.config_problems where table_name = 'group_members'")
    assert all("is a member of itself" in problem for (problem,) in problems.fetchall())
    with pytest.raises(duckdb.Error, match=r"is a member of itself.*fleming.group_members"):
        ask(closed)
    assert model.request_count == 0


def test_a_service_principal_needs_a_row_for_one(join: Join) -> None:
    owner = join("owner")
    principal(owner, "etl", "service_principal")
    principal(owner, "bob")
    permit(owner, "etl", "service_principal")
    permit(owner, "bob", "user")

    assert ask(join("etl")) == "echo: x"
    assert ask(join("bob")) == "echo: x"


def test_a_user_is_not_let_through_by_a_row_for_a_service_principal_of_its_name(
    con: Connection, model: MockModel
) -> None:
    principal(con, "ada", "user")
    permit(con, "ada", "service_principal")

    with pytest.raises(duckdb.Error, match="principal_type"):
        ask(con)


def test_a_disabled_user_may_call_nothing_not_even_what_is_open(con: Connection, model: MockModel) -> None:
    principal(con, "ada", enabled=False)

    text = denied(con)

    assert "switched off" in text
    assert "fleming.principals" in text
    assert model.request_count == 0


def test_a_disabled_user_is_refused_whatever_its_groups_may(con: Connection, model: MockModel) -> None:
    principal(con, "ada", enabled=False)
    principal(con, "analysts", "group")
    member(con, "analysts", "ada")
    permit(con, "analysts", "group")

    assert "switched off" in denied(con)


def test_a_disabled_group_lets_nobody_through(join: Join) -> None:
    owner = join("owner")
    principal(owner, "analysts", "group", enabled=False)
    principal(owner, "ada")
    member(owner, "analysts", "ada")
    permit(owner, "analysts", "group")

    denied(join("ada"))
    denied(join("eve", "analysts"))


def test_a_disabled_group_on_the_way_breaks_the_chain(join: Join) -> None:
    owner = join("owner")
    principal(owner, "team", "group", enabled=False)
    principal(owner, "company", "group")
    principal(owner, "ada")
    member(owner, "company", "team")
    member(owner, "team", "ada")
    permit(owner, "company", "group")

    denied(join("ada"))
    denied(join("eve", "team"))


def test_an_answer_in_the_cache_does_not_reach_who_may_not_call(join: Join, model: MockModel) -> None:
    owner = join("owner")
    principal(owner, "bob")
    permit(owner, "bob")

    assert ask(join("bob"), "the secret") == "echo: the secret"
    text = denied(join("ada"), "the secret")

    assert "echo" not in text
    assert model.request_count == 1
    assert owner.execute(
        "select response, cache_hit from fleming.serving.inference where requester = 'ada'"
    ).fetchall() == [(None, False)]


def test_an_answer_on_its_way_does_not_reach_who_may_not_call(join: Join, add_endpoint: AddEndpoint) -> None:
    bob, ada = join("bob"), join("ada")
    with MockModel(lambda received: chat_reply("secret").delayed(0.5)) as slow:
        add_endpoint(bob, "slow", base_url=slow.url, cache_ttl_seconds=3600)
        principal(bob, "bob")
        permit(bob, "bob", endpoint="slow")
        thread = threading.Thread(target=bob.execute, args=("select ai_query('slow', 'x')",))
        thread.start()
        slow.wait_until(lambda server: server.in_flight == 1)

        with pytest.raises(duckdb.Error, match="PERMISSION_DENIED"):
            ada.execute("select ai_query('slow', 'x')")

        assert slow.in_flight == 1
        thread.join()


def test_a_change_is_in_force_at_the_next_statement(closed: Connection) -> None:
    denied(closed)
    principal(closed, "ada")
    permit(closed, "ada")
    assert ask(closed) == "echo: x"
    closed.execute("update fleming.principals set enabled = false where name = 'ada'")
    assert "switched off" in denied(closed)
    closed.execute("update fleming.principals set enabled = true")
    assert ask(closed) == "echo: x"
    closed.execute("delete from fleming.permissions where principal = 'ada'")
    denied(closed)
    closed.execute("delete from fleming.permissions")
    assert ask(closed) == "echo: x"


def test_a_running_statement_is_not_cut_off_by_a_change(con: Connection, serve: Serve) -> None:
    def close(received: Received) -> Reply:
        if received.json()["messages"][0]["content"] == "q0":
            cursor = con.cursor()
            cursor.execute("insert into fleming.principals (name) values ('bob')")
            cursor.execute("insert into fleming.permissions (endpoint, principal) values ('chat', 'bob')")
        return chat_reply("ok")

    serve(close)

    con.execute("create table answers as select ai_query('chat', 'q' || i) as a from range(3000) t(i)")

    assert con.execute("select count(*) from answers where a = 'ok'").fetchall() == [(3000,)]
    denied(con)


def test_without_fail_on_error_the_text_is_the_rows_error(closed: Connection) -> None:
    answer = closed.execute("select ai_query('chat', 'x', failOnError => false)").fetchall()[0][0]

    assert answer["result"] is None
    assert "PERMISSION_DENIED" in answer["errorMessage"]


def test_two_connections_of_one_instance_keep_their_callers(join: Join) -> None:
    bob, ada = join("bob"), join("ada")
    principal(bob, "bob")
    permit(bob, "bob")

    for _ in range(3):
        assert ask(bob) == "echo: x"
        denied(ada)
    assert ask(bob.cursor()) == "echo: x"
    denied(ada.cursor())
    denied(ada.cursor().cursor())


def test_a_bare_cursor_of_a_connection_is_not_somebody_elses(join: Join) -> None:
    ada, bob = join("ada"), join("bob")
    principal(ada, "owner")
    permit(ada, "owner")

    denied(bob.duckdb)
    denied(bob.duckdb.cursor())


def test_attach_to_an_instance_with_a_gateway_does_not_make_its_user_somebody_else(join: Join) -> None:
    ada = join("ada")
    principal(ada, "owner")
    permit(ada, "owner")
    bare = ada.duckdb.cursor()

    fleming_sql.attach(bare, user="eve")

    denied(bare)


def test_groups_given_as_one_text_are_not_taken_letter_by_letter() -> None:
    with pytest.raises(FlemingError, match="groups"):
        fleming_sql.connect(user="ada", groups="staff")


def test_attach_makes_its_user_the_caller_of_the_connection_and_its_cursors(
    model: MockModel, add_endpoint: AddEndpoint
) -> None:
    con = duckdb.connect()
    fleming_sql.attach(con, user="bob")
    add_endpoint(con, base_url=model.url)
    principal(con, "eve")
    permit(con, "eve")

    assert '"bob"' in denied(con)
    assert '"bob"' in denied(con.cursor())
    con.execute("update fleming.permissions set principal = 'bob'; update fleming.principals set name = 'bob'")
    assert ask(con) == "echo: x"
    assert ask(con.cursor()) == "echo: x"
    fleming_sql.detach(con)


def test_attach_takes_groups(model: MockModel, add_endpoint: AddEndpoint) -> None:
    con = duckdb.connect()
    fleming_sql.attach(con, user="ada", groups=["analysts"])
    add_endpoint(con, base_url=model.url)
    principal(con, "analysts", "group")
    permit(con, "analysts", "group")

    assert ask(con) == "echo: x"
    fleming_sql.detach(con)


def test_a_name_with_quotes_is_no_way_around(join: Join) -> None:
    owner = join("owner")
    principal(owner, "bob")
    permit(owner, "bob")

    denied(join("x' or '1'='1"))
    denied(join("BOB"))
    denied(join("bob "))


def test_of_two_endpoints_in_one_statement_only_the_closed_one_is_denied(
    closed: Connection, model: MockModel, add_endpoint: AddEndpoint
) -> None:
    add_endpoint(closed, "open", base_url=model.url)

    row = closed.execute(
        "select ai_query('chat', 'x', failOnError => false).errorMessage is null, "
        "ai_query('open', 'x', failOnError => false).errorMessage is null"
    ).fetchall()[0]

    assert row == (False, True)
    assert model.request_count == 1


def test_a_row_that_names_nobody_fails_calls_instead_of_guessing(con: Connection, model: MockModel) -> None:
    permit(con, "nobody")

    with pytest.raises(duckdb.Error, match=r"nobody.*fleming.principals"):
        ask(con)
    assert model.request_count == 0
