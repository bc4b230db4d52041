"""The store: configuration in force at the next statement, versions, migrations, damaged and foreign files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Serve

import fleming_sql
from fleming_sql import Connection, FlemingError
from fleming_sql.providers import PROVIDERS
from fleming_sql.providers.presets import read_presets
from fleming_sql.store.catalog import attached_path
from fleming_sql.store.files import read_files
from fleming_sql.store.migrations import applied, frozen, hashes, migrate
from fleming_sql.testing import MockModel, chat_reply


def ask(con: Any, text: str = "x") -> Any:
    return con.execute("select ai_query('chat', ?)", [text]).fetchall()[0][0]


def test_a_change_is_in_force_at_the_next_statement(con: Connection, serve: Serve) -> None:
    serve()
    other = MockModel(lambda received: chat_reply("the other"))
    with other:
        assert ask(con) == "echo: x"
        con.execute("update fleming.served_entities set base_url = ?", [other.url])
        assert ask(con) == "the other"
        con.execute("delete from fleming.endpoints")
        with pytest.raises(duckdb.Error, match="there is no endpoint"):
            ask(con)


def test_a_change_to_a_store_in_a_file_is_in_force_at_once_each_time(
    tmp_path: Path, add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with fleming_sql.connect("w.duckdb") as con:
        add_endpoint(con, provider="simulated", parameters={"template": "0"})
        monkeypatch.chdir("/")  # the store was named by a relative path
        cursor = con.cursor()
        for number in range(200):
            writer = cursor if number % 2 else con
            writer.execute("update fleming.served_entities set parameters = ?", [f'{{"template": "{number}"}}'])
            assert ask(con) == str(number)
            if number % 50 == 0:
                con.execute("checkpoint fleming")


def test_a_prepared_statement_sees_the_change_too(con: Connection, serve: Serve) -> None:
    serve()
    con.execute("prepare ask as select ai_query('chat', 'x' || $1)")
    con.execute("execute ask(1)").fetchall()

    con.execute("update fleming.endpoints set enabled = false")

    with pytest.raises(duckdb.Error, match="is switched off"):
        con.execute("execute ask(2)").fetchall()


def test_a_change_through_another_cursor_is_seen(con: Connection, model: MockModel) -> None:
    con.cursor().execute("update fleming.endpoints set enabled = false")

    with pytest.raises(duckdb.Error, match="is switched off"):
        ask(con)


def test_a_statement_sees_one_configuration_from_its_first_row_to_its_last(con: Connection, serve: Serve) -> None:
    def change(received: Any) -> Any:
        if received.json()["messages"][0]["content"] == "q0":
            con.cursor().execute("update fleming.endpoints set enabled = false")
        return chat_reply("ok")

    serve(change)

    con.execute("create table answers as select ai_query('chat', 'q' || i) as a from range(5000) t(i)")

    assert con.execute("select count(*) from answers where a = 'ok'").fetchall() == [(5000,)]
    with pytest.raises(duckdb.Error, match="is switched off"):
        ask(con)


def test_a_changed_entity_is_a_new_version_and_an_unchanged_one_is_not(con: Connection, model: MockModel) -> None:
    ask(con, "1")
    con.execute("insert into fleming.endpoints (name) values ('unrelated')")
    ask(con, "2")
    con.execute("update fleming.served_entities set model = 'other'")
    ask(con, "3")

    versions = con.execute(
        "select entity_name, endpoint_config_version from fleming.serving.served_entities "
        "where endpoint_name = 'chat' order by endpoint_config_version"
    ).fetchall()
    joined = con.execute(
        "select i.config_version, e.entity_name from fleming.serving.inference i "
        "join fleming.serving.served_entities e using (served_entity_id) order by i.request_time"
    ).fetchall()

    assert versions == [("mock", 1), ("other", 2)]
    assert joined == [(1, "mock"), (1, "mock"), (2, "other")]


def test_versions_go_on_after_reopening(tmp_path: Path, add_endpoint: AddEndpoint, model: MockModel) -> None:
    for name in ("one", "one", "two"):
        with fleming_sql.connect(gateway=tmp_path / "g.duckdb") as con:
            con.execute("delete from fleming.endpoints; delete from fleming.served_entities")
            add_endpoint(con, base_url=model.url, model=name)
            ask(con)

    with fleming_sql.connect(gateway=tmp_path / "g.duckdb") as con:
        versions = con.execute(
            "select entity_name, endpoint_config_version from fleming.serving.served_entities order by 2"
        )
        assert versions.fetchall() == [("one", 1), ("two", 2)]


def test_a_deleted_endpoint_is_marked(con: Connection, model: MockModel, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con, "other", base_url=model.url)
    ask(con)
    con.execute("delete from fleming.endpoints where name = 'other'")
    con.execute("delete from fleming.served_entities where endpoint = 'other'")
    ask(con)

    deleted = con.execute(
        "select endpoint_name from fleming.serving.served_entities where endpoint_delete_time is not null"
    )
    assert deleted.fetchall() == [("other",)]


def test_the_share_of_each_entity_is_its_percentage(con: Connection, serve: Serve) -> None:
    first = serve(traffic_percentage=75)
    with MockModel(lambda received: chat_reply("second")) as second:
        con.execute(
            "insert into fleming.served_entities (endpoint, name, provider, base_url, traffic_percentage) "
            "values ('chat', 'second', 'openai', ?, 25), ('chat', 'spare', 'openai', ?, 0)",
            [second.url, "http://127.0.0.1:1"],
        )

        con.execute("select ai_query('chat', 'q' || i) from range(2000) t(i)").fetchall()

        assert first.request_count + second.request_count == 2000
        # 25 % of 2,000 is 500 with a standard deviation of 19.4: five of them are 97
        assert abs(second.request_count - 500) < 97


def test_all_tables_views_and_macros_carry_comments(con: Connection) -> None:
    bare = con.execute(
        """
        select table_name from duckdb_tables() where database_name = 'fleming' and comment is null
        union all
        select view_name from duckdb_views() where database_name = 'fleming' and not internal and comment is null
        """
    ).fetchall()

    assert bare == []


def test_all_columns_of_views_carry_comments(con: Connection) -> None:
    bare = con.execute(
        "select table_name || '.' || column_name from duckdb_columns() c where database_name = 'fleming' "
        "and comment is null and exists (from duckdb_views() v where v.database_name = 'fleming' "
        "and not v.internal and v.schema_name = c.schema_name and v.view_name = c.table_name)"
    ).fetchall()

    assert bare == []


def test_providers_lists_what_is_registered(con: Connection) -> None:
    names = con.execute("select name from fleming.providers order by 1").fetchall()

    assert names == [(name,) for name in sorted({*PROVIDERS, *read_presets()})]


def schema(con: Any) -> list[Any]:
    rows: list[Any] = con.execute(
        "select schema_name, table_name, column_name, data_type, column_default, is_nullable "
        "from duckdb_columns() where database_name = 'fleming' and not internal order by all"
    ).fetchall()
    return rows


def test_a_store_of_the_previous_migration_is_upgraded_to_the_same_schema(tmp_path: Path) -> None:
    path = str(tmp_path / "old.duckdb")
    old = duckdb.connect()
    old.execute(f"attach '{path}' as old (storage_version 'v1.4.0'); use old")
    migrate(old, read_files("migrations")[:-1])
    old.execute("insert into endpoints (name) values ('kept')")
    old.close()

    with fleming_sql.connect(gateway=path) as upgraded, fleming_sql.connect() as fresh:
        assert schema(upgraded) == schema(fresh)
        assert upgraded.execute("select name from fleming.endpoints").fetchall() == [("kept",)]
        names = [file.name for file in read_files("migrations")]
        assert [
            name for (name,) in upgraded.execute("select name from fleming.migrations order by 1").fetchall()
        ] == names


def test_migrations_run_once(tmp_path: Path) -> None:
    con = duckdb.connect()

    assert migrate(con) == [file.name for file in read_files("migrations")]
    assert migrate(con) == []
    assert applied(con) == [file.name for file in read_files("migrations")]


def test_released_migrations_are_unchanged() -> None:
    released = frozen()

    assert released
    assert {name: digest for name, digest in hashes().items() if name in released} == released


def test_a_store_with_migrations_from_the_future_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "g.duckdb")
    fleming_sql.connect(gateway=path).close()
    store = duckdb.connect(path)
    store.execute("insert into migrations (name) values ('999-future')")
    store.close()

    with pytest.raises(FlemingError, match=r"999-future.*upgrade fleming-sql"):
        fleming_sql.connect(gateway=path)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"\0" * 4096], ids=["text", "zeros"])
def test_a_file_that_is_no_store_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.duckdb"
    path.write_bytes(content)

    with pytest.raises(FlemingError, match="not a readable DuckDB database"):
        fleming_sql.connect(gateway=path)
    assert path.read_bytes() == content


def test_a_damaged_store_is_told(tmp_path: Path) -> None:
    path = tmp_path / "g.duckdb"
    fleming_sql.connect(gateway=path).close()
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    content[8192:12288] = b"\xff" * 4096
    path.write_bytes(content)

    with pytest.raises(FlemingError, match="cannot be opened"):
        fleming_sql.connect(gateway=path)


def test_a_store_of_a_newer_duckdb_is_told(tmp_path: Path) -> None:
    path = tmp_path / "g.duckdb"
    fleming_sql.connect(gateway=path).close()
    content = bytearray(path.read_bytes())
    content[12:20] = (9999).to_bytes(8, "little")
    path.write_bytes(content)

    with pytest.raises(FlemingError, match=r"newer DuckDB|cannot be opened"):
        fleming_sql.connect(gateway=path)


def test_a_folder_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(FlemingError, match="cannot be created"):
        fleming_sql.connect(gateway=tmp_path / "no" / "g.duckdb")


def test_a_failed_connect_leaves_nothing_attached(tmp_path: Path) -> None:
    (tmp_path / "g.duckdb").write_bytes(b"garbage" * 1000)
    con = duckdb.connect()

    with pytest.raises(FlemingError):
        fleming_sql.attach(con, gateway=tmp_path / "g.duckdb")

    assert attached_path(con) is None
    fleming_sql.attach(con)
    fleming_sql.detach(con)
