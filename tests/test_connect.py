"""Connections: files, memory, read-only, cursors, threads, transactions, two stores, ends of all kinds."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from conftest import AddEndpoint

import fleming_sql
from fleming_sql import Connection, FlemingError
from fleming_sql.testing import MockModel, chat_reply, echo_chat


@pytest.fixture
def server() -> Iterator[MockModel]:
    with MockModel(echo_chat) as server:
        yield server


def calls(con: Any) -> int:
    count: int = con.execute("select count(*) from fleming.serving.inference").fetchall()[0][0]
    return count


def ask(con: Any, text: str = "x") -> Any:
    return con.execute("select fleming.ai_query('chat', ?)", [text]).fetchall()[0][0]


def run_script(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_store_of_a_file_stands_beside_it(tmp_path: Path) -> None:
    with fleming_sql.connect(tmp_path / "warehouse.duckdb"):
        pass

    assert (tmp_path / "warehouse.fleming.duckdb").exists()


def test_a_named_store_is_used(tmp_path: Path) -> None:
    with fleming_sql.connect(gateway=tmp_path / "gateway.duckdb") as con:
        con.execute("insert into fleming.endpoints (name) values ('kept')")

    with fleming_sql.connect(gateway=tmp_path / "gateway.duckdb") as con:
        assert con.execute("select name from fleming.endpoints").fetchall() == [("kept",)]


def test_configuration_and_log_survive_reopening(tmp_path: Path, server: MockModel, add_endpoint: AddEndpoint) -> None:
    with fleming_sql.connect(tmp_path / "w.duckdb") as con:
        add_endpoint(con, base_url=server.url)
        assert ask(con) == "echo: x"

    with fleming_sql.connect(tmp_path / "w.duckdb") as con:
        assert calls(con) == 1
        assert con.execute("select ai_query('chat', 'y')").fetchall() == [("echo: y",)]


def test_a_read_only_database_has_a_store_that_is_written(
    tmp_path: Path, server: MockModel, add_endpoint: AddEndpoint
) -> None:
    duckdb.connect(str(tmp_path / "w.duckdb")).close()

    with fleming_sql.connect(tmp_path / "w.duckdb", read_only=True) as con:
        add_endpoint(con, base_url=server.url)
        assert con.execute("select ai_query('chat', 'x')").fetchall() == [("echo: x",)]
        assert con.cursor().execute("select ai_query('chat', 'y')").fetchall() == [("echo: y",)]
        assert calls(con) == 2
        with pytest.raises(duckdb.Error, match="read-only"):
            con.execute("create table t (i int)")


def test_everything_of_duckdbs_connection_is_there(con: Connection) -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    con.register("registered", frame)

    assert con.sql("select sum(a) from frame").fetchall() == [(3,)]
    assert con.execute("select * from registered").df().equals(frame)
    assert con.sql("select 1 as one").to_arrow_table() == pa.table({"one": pa.array([1], pa.int32())})
    assert con.cursor().execute("select 7").fetchone() == (7,)
    assert con.table_function("range", [3]).filter("range > 0").fetchall() == [(1,), (2,)]
    assert isinstance(con.duckdb, duckdb.DuckDBPyConnection)
    assert con.execute("select 1").description


def test_results_are_pandas_and_polars_and_arrow(con: Connection, model: MockModel) -> None:
    sql = "select ai_query('chat', 'x') as a"

    assert con.sql(sql).df()["a"].to_list() == ["echo: x"]
    assert con.sql(sql).pl()["a"].to_list() == ["echo: x"]
    assert con.sql(sql).to_arrow_table()["a"].to_pylist() == ["echo: x"]


def test_log_rows_stay_when_the_user_rolls_back(con: Connection, model: MockModel) -> None:
    con.execute("begin")
    con.execute("create table answers as select ai_query('chat', 'x') as a")
    con.execute("rollback")

    assert calls(con) == 1
    with pytest.raises(duckdb.CatalogException):
        con.execute("from answers")


def test_log_rows_are_there_after_the_user_commits(con: Connection, model: MockModel) -> None:
    con.execute("begin")
    con.execute("create table answers as select ai_query('chat', 'x') as a")
    con.execute("commit")

    assert calls(con) == 1
    assert con.execute("from answers").fetchall() == [("echo: x",)]


def test_cursors_in_threads_share_one_gateway(con: Connection, model: MockModel) -> None:
    def work(number: int) -> None:
        with con.cursor() as cursor:
            sql = "select ai_query('chat', ? || '-' || i) from range(50) t(i)"
            results[number] = cursor.execute(sql, [str(number)]).fetchall()

    results: dict[int, list[Any]] = {}
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(results[n] == [(f"echo: {n}-{i}",) for i in range(50)] for n in range(8))
    assert calls(con) == model.request_count == 400


def test_a_list_of_texts_works_in_a_file_and_in_its_cursors(tmp_path: Path, add_endpoint: AddEndpoint) -> None:
    duckdb.connect(str(tmp_path / "w.duckdb")).close()
    with fleming_sql.connect(tmp_path / "w.duckdb") as con:
        add_endpoint(con, "embed", provider="simulated", task="llm/v1/embeddings")
        for cursor in (con, con.cursor(), con.cursor().cursor()):
            lengths = cursor.execute("select len(ai_query('embed', ['a', 'b'])), typeof(ai_query('embed', 'a'))")
            assert lengths.fetchall() == [(2, "FLOAT[]")]


def test_the_user_is_the_requester(
    server: MockModel, add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEMING_USER", "from-environment")
    with fleming_sql.connect() as con:
        add_endpoint(con, base_url=server.url)
        ask(con)
        assert con.execute("select requester from fleming.serving.inference").fetchall() == [("from-environment",)]


def test_two_connections_to_a_file_share_a_gateway_and_keep_their_users(
    tmp_path: Path, server: MockModel, add_endpoint: AddEndpoint
) -> None:
    with (
        fleming_sql.connect(tmp_path / "w.duckdb", user="ada") as ada,
        fleming_sql.connect(tmp_path / "w.duckdb", user="bob") as bob,
    ):
        add_endpoint(ada, base_url=server.url)
        ask(ada, "1")
        ask(bob, "2")
        ask(bob.cursor(), "3")

        requesters = "select requester, count(*) from fleming.serving.inference group by 1 order by 1"
        assert ada.execute(requesters).fetchall() == [("ada", 1), ("bob", 2)]


def test_closing_one_of_two_connections_leaves_the_other_at_work(
    tmp_path: Path, server: MockModel, add_endpoint: AddEndpoint
) -> None:
    first = fleming_sql.connect(tmp_path / "w.duckdb")
    second = fleming_sql.connect(tmp_path / "w.duckdb")
    add_endpoint(first, base_url=server.url)

    first.close()

    assert ask(second) == "echo: x"
    second.close()


def test_two_stores_in_one_process_do_not_mix(server: MockModel, add_endpoint: AddEndpoint) -> None:
    with fleming_sql.connect() as one, fleming_sql.connect() as two:
        add_endpoint(one, base_url=server.url)
        ask(one)

        assert calls(one) == 1
        assert calls(two) == 0
        assert two.execute("select count(*) from fleming.endpoints").fetchall() == [(0,)]


def test_closing_frees_both_files_for_another_process(tmp_path: Path) -> None:
    fleming_sql.connect(tmp_path / "w.duckdb").close()

    done = run_script("import fleming_sql, sys; fleming_sql.connect(sys.argv[1]).close()", str(tmp_path / "w.duckdb"))

    assert done.returncode == 0, done.stderr


def test_a_connection_that_is_dropped_frees_its_files(tmp_path: Path) -> None:
    con = fleming_sql.connect(tmp_path / "w.duckdb")
    del con
    gc.collect()

    done = run_script("import fleming_sql, sys; fleming_sql.connect(sys.argv[1]).close()", str(tmp_path / "w.duckdb"))

    assert done.returncode == 0, done.stderr


def test_use_after_close_is_an_error(con: Connection, model: MockModel) -> None:
    con.close()
    con.close()

    with pytest.raises(duckdb.ConnectionException, match="closed"):
        con.execute("select 1")


def test_a_store_open_in_another_process_is_told(tmp_path: Path) -> None:
    with fleming_sql.connect(gateway=tmp_path / "gateway.duckdb"):
        script = "import fleming_sql, sys; fleming_sql.connect(gateway=sys.argv[1])"
        done = run_script(script, str(tmp_path / "gateway.duckdb"))

    assert done.returncode == 1
    assert "is open in another process" in done.stderr
    assert "gateway.duckdb" in done.stderr


def test_a_store_open_in_another_instance_of_this_process_is_told(tmp_path: Path) -> None:
    with (
        fleming_sql.connect(gateway=tmp_path / "g.duckdb"),
        pytest.raises(FlemingError, match="already open in this"),
    ):
        fleming_sql.connect(gateway=tmp_path / "g.duckdb")


def test_a_server_address_is_refused_for_now() -> None:
    with pytest.raises(FlemingError, match="such as that of a gateway server"):
        fleming_sql.connect(gateway="https://gateway.example.com")


def test_a_user_database_called_fleming_is_told(tmp_path: Path) -> None:
    with pytest.raises(FlemingError, match='already has a database called "fleming"'):
        fleming_sql.connect(tmp_path / "fleming.duckdb")


def test_database_and_store_may_not_be_one_file(tmp_path: Path) -> None:
    with pytest.raises(FlemingError, match="are the same file"):
        fleming_sql.connect(tmp_path / "w.duckdb", gateway=tmp_path / "w.duckdb")


def test_a_store_opened_as_a_database_is_told(tmp_path: Path) -> None:
    fleming_sql.connect(tmp_path / "w.duckdb").close()

    with pytest.raises(FlemingError, match="is itself a gateway store"):
        fleming_sql.connect(tmp_path / "w.fleming.duckdb")
    assert not (tmp_path / "w.fleming.fleming.duckdb").exists()


def test_attach_to_a_path_is_told() -> None:
    with pytest.raises(FlemingError, match="takes a DuckDB connection"):
        fleming_sql.attach("w.duckdb")  # type: ignore[arg-type]


@pytest.fixture
def bare() -> Iterator[duckdb.DuckDBPyConnection]:
    con = duckdb.connect()
    yield con
    fleming_sql.detach(con)
    con.close()


def test_attach_works_on_a_plain_connection_and_its_cursors(
    bare: duckdb.DuckDBPyConnection, server: MockModel, add_endpoint: AddEndpoint
) -> None:
    assert fleming_sql.attach(bare) is bare
    add_endpoint(bare, base_url=server.url)

    assert bare.sql("select ai_query('chat', 'x')").fetchall() == [("echo: x",)]
    assert bare.cursor().execute("select ai_query('chat', 'y')").fetchall() == [("echo: y",)]


def test_attach_twice_is_once(bare: duckdb.DuckDBPyConnection, server: MockModel, add_endpoint: AddEndpoint) -> None:
    fleming_sql.attach(bare)
    add_endpoint(bare, base_url=server.url)
    fleming_sql.attach(bare)
    fleming_sql.attach(bare.cursor())

    assert ask(bare) == "echo: x"


def test_a_second_store_for_an_instance_is_an_error(bare: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    fleming_sql.attach(bare)

    with pytest.raises(FlemingError, match="already has the gateway store"):
        fleming_sql.attach(bare, gateway=tmp_path / "other.duckdb")


def test_attach_works_on_the_default_connection(server: MockModel, add_endpoint: AddEndpoint) -> None:
    default = duckdb.default_connection()
    fleming_sql.attach(default)
    try:
        add_endpoint(default, base_url=server.url)
        assert default.sql("select ai_query('chat', 'x')").fetchall() == [("echo: x",)]
    finally:
        fleming_sql.detach(default)


def test_attach_works_inside_an_open_transaction(
    bare: duckdb.DuckDBPyConnection, server: MockModel, add_endpoint: AddEndpoint
) -> None:
    bare.execute("create table t (i int)")
    bare.execute("begin")
    bare.execute("insert into t values (1)")
    fleming_sql.attach(bare)
    bare.execute("rollback")
    add_endpoint(bare, base_url=server.url)

    assert bare.execute("select ai_query('chat', 'x')").fetchall() == [("echo: x",)]
    assert bare.execute("from t").fetchall() == []


def test_detach_takes_the_functions_away_and_attach_brings_them_back(
    tmp_path: Path, server: MockModel, add_endpoint: AddEndpoint
) -> None:
    bare = duckdb.connect(str(tmp_path / "w.duckdb"))
    fleming_sql.attach(bare)
    add_endpoint(bare, base_url=server.url)
    fleming_sql.detach(bare)
    fleming_sql.detach(bare)

    with pytest.raises(duckdb.CatalogException):
        bare.execute("select ai_query('chat', 'x')")
    assert bare.execute("select count(*) from duckdb_databases() where database_name = 'fleming'").fetchall() == [(0,)]

    fleming_sql.attach(bare)
    assert bare.execute("select ai_query('chat', 'x')").fetchall() == [("echo: x",)]
    fleming_sql.detach(bare)
    bare.close()


def test_attach_again_after_the_connection_it_came_through_was_closed(
    server: MockModel, add_endpoint: AddEndpoint
) -> None:
    root = duckdb.connect()
    through = root.cursor()
    fleming_sql.attach(through)
    through.close()

    fleming_sql.attach(root)
    add_endpoint(root, base_url=server.url)

    assert root.execute("select ai_query('chat', 'x')").fetchall() == [("echo: x",)]
    fleming_sql.detach(root)


def test_a_stored_view_that_uses_ai_query_works_after_reopening(
    tmp_path: Path, server: MockModel, add_endpoint: AddEndpoint
) -> None:
    with fleming_sql.connect(tmp_path / "w.duckdb") as con:
        add_endpoint(con, base_url=server.url)
        con.execute("create view answers as select ai_query('chat', 'x') as a")

    with fleming_sql.connect(tmp_path / "w.duckdb") as con:
        assert con.execute("from answers").fetchall() == [("echo: x",)]


@pytest.mark.parametrize("ending", ["con.close()", "pass", "del con", "sys.exit(0)"])
def test_the_interpreter_ends_at_once_with_everything_logged(tmp_path: Path, server: MockModel, ending: str) -> None:
    script = """
        import sys, fleming_sql
        con = fleming_sql.connect(sys.argv[1])
        con.execute("insert into fleming.endpoints (name) values ('chat')")
        con.execute("insert into fleming.served_entities (endpoint, name, provider, base_url) "
                    "values ('chat', 'm', 'openai', ?)", [sys.argv[2]])
        con.execute("select ai_query('chat', 'x' || i) from range(100) t(i)").fetchall()
    """
    done = run_script(textwrap.dedent(script) + ending, str(tmp_path / "w.duckdb"), server.url)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with fleming_sql.connect(tmp_path / "w.duckdb") as con:
        assert calls(con) == 100


def test_a_forked_process_is_told_to_open_its_own(tmp_path: Path) -> None:
    script = """
        import os, sys, warnings, fleming_sql
        warnings.simplefilter("ignore")
        con = fleming_sql.connect()
        con.execute("select 1").fetchall()
        pid = os.fork()
        if pid == 0:
            try:
                con.execute("select ai_query('chat', 'x')")
            except fleming_sql.FlemingError as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print("parent", con.execute("select 7").fetchall())
    """
    done = run_script(script)

    assert "this process was forked after fleming_sql.connect" in done.stdout
    assert "parent [(7,)]" in done.stdout


def test_statements_of_a_killed_process_are_in_the_log(tmp_path: Path, server: MockModel) -> None:
    script = """
        import os, signal, sys, fleming_sql
        con = fleming_sql.connect(sys.argv[1])
        con.execute("insert into fleming.endpoints (name) values ('chat')")
        con.execute("insert into fleming.served_entities (endpoint, name, provider, base_url) "
                    "values ('chat', 'm', 'openai', ?)", [sys.argv[2]])
        rows = con.execute("select ai_query('chat', 'x' || i) from range(5000) t(i)").fetchmany(3000)
        print(len(rows), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_script(script, str(tmp_path / "w.duckdb"), server.url)

    assert done.returncode == -9
    with fleming_sql.connect(tmp_path / "w.duckdb") as con:
        assert calls(con) >= int(done.stdout) == 3000


def test_an_httpx_transport_plugs_in(add_endpoint: AddEndpoint) -> None:
    import httpx

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=chat_reply(f"over httpx to {request.url.host}").body)

    with fleming_sql.connect(transport=httpx.MockTransport(answer)) as con:
        add_endpoint(con, base_url="http://model.internal")

        assert ask(con) == "over httpx to model.internal"


def test_a_huge_httpx_answer_is_refused_too(add_endpoint: AddEndpoint) -> None:
    import httpx

    big = httpx.MockTransport(lambda request: httpx.Response(200, content=b"x" * 5000))
    with fleming_sql.connect(transport=big) as con:
        add_endpoint(con, base_url="http://model.internal", max_response_bytes=1000)

        with pytest.raises(duckdb.Error, match="longer than 1000 bytes"):
            ask(con)
