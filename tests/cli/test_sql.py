"""`fleming sql`: statements in, results out, in every form."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import Result

import fleming_sql
from fleming_sql.testing import MockModel, Reply, echo_chat

Run = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]
ROWS = "select range as id, 'a|b' as text, null::varchar as nothing, [1, 2] as list from range(2)"

pytestmark = pytest.mark.usefixtures("store")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("csv", 'id,text,nothing,list\n0,a|b,,"[1, 2]"\n1,a|b,,"[1, 2]"\n'),
        (
            "json",
            '[\n  {"id": 0, "text": "a|b", "nothing": null, "list": [1, 2]},\n'
            '  {"id": 1, "text": "a|b", "nothing": null, "list": [1, 2]}\n]\n',
        ),
        (
            "jsonl",
            '{"id": 0, "text": "a|b", "nothing": null, "list": [1, 2]}\n'
            '{"id": 1, "text": "a|b", "nothing": null, "list": [1, 2]}\n',
        ),
        (
            "markdown",
            "| id | text | nothing | list |\n|---|---|---|---|\n"
            "| 0 | a\\|b | NULL | [1, 2] |\n| 1 | a\\|b | NULL | [1, 2] |\n",
        ),
        ("table", "id  text  nothing  list\n 0  a|b   NULL     [1, 2]\n 1  a|b   NULL     [1, 2]\n"),
    ],
)
def test_a_result_in_each_form_of_text(run: Run, folder: Path, kind: str, expected: str) -> None:
    done = run("sql", "--format", kind, ROWS)
    run("sql", "--format", kind, "-o", "result", ROWS)

    assert done.stdout == expected
    assert (folder / "result").read_text("utf-8") == expected


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "markdown", "table"])
def test_a_result_without_rows_in_each_form(run: Run, kind: str) -> None:
    done = run("sql", "--format", kind, "select 1 as a where false")

    expected = {"json": "[]\n", "jsonl": "", "markdown": "| a |\n|---|\n"}
    assert done.stdout == expected.get(kind, "a\n")


def test_a_pipe_gets_csv_and_json_asks_for_json(run: Run) -> None:
    assert run("sql", "select 1 as a").stdout == "a\n1\n"
    assert json.loads(run("sql", "--json", "select 1 as a").stdout) == [{"a": 1}]


def test_parquet_keeps_types(run: Run, folder: Path) -> None:
    done = run("sql", "-o", "out.parquet", "select range as id, 1.5::decimal(4, 2) as d from range(100000)")

    assert done.exit_code == 0
    table = pq.read_table(folder / "out.parquet")
    assert (table.num_rows, [str(field.type) for field in table.schema]) == (100_000, ["int64", "decimal128(4, 2)"])


def test_a_type_that_parquet_lacks_is_told_and_leaves_no_file(run: Run, folder: Path) -> None:
    done = run("sql", "-o", "out.parquet", "select interval 1 month as i")

    assert done.exit_code == 1
    assert "Parquet cannot hold this" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["fleming.duckdb"]


def test_values_of_every_kind_survive_json(run: Run) -> None:
    query = (
        "select 170141183460469231731687303715884105727::hugeint as h, 'nan'::double as nan, 0.1::decimal(3, 1) as d, "
        "date '2026-01-02' as day, 'a\\xAA'::blob as b, map {1: 'x'} as m, {'s': [null]} as s, true as t, 1 as t"
    )
    [row] = json.loads(run("sql", "--json", query).stdout)

    assert row == {
        "h": 2**127 - 1,
        "nan": None,
        "d": 0.1,
        "day": "2026-01-02",
        "b": "a\\xAA",
        "m": {"1": "x"},
        "s": {"s": [None]},
        "t": True,
        "t_1": 1,
    }


def test_csv_quotes_what_it_must(run: Run) -> None:
    done = run("sql", "select 'one, \"two\"\nthree' as a, '' as b, 'ü' as c")

    assert list(csv.reader(io.StringIO(done.stdout))) == [["a", "b", "c"], ['one, "two"\nthree', "", "ü"]]


def test_several_statements_run_in_order_and_the_last_result_is_written(run: Run) -> None:
    done = run("sql", "create table t as select 1 as a; insert into t values (2); select 0; select sum(a) as s from t")

    assert done.stdout == "s\n3\n"


def test_statements_from_a_file_and_from_stdin(run: Run, folder: Path) -> None:
    (folder / "job.sql").write_text("select 1 as a; -- comment\nselect 2 as a", "utf-8")

    assert run("sql", "-f", "job.sql").stdout == "a\n2\n"
    assert run("sql", stdin="select 3 as a").stdout == "a\n3\n"
    assert run("sql", "-f", "-", stdin="select 4 as a").stdout == "a\n4\n"


def test_parameters_are_bound_by_name(run: Run) -> None:
    done = run(
        "sql",
        "-p",
        "n=2",
        "-p",
        "name=O'Brien; drop table x",
        "-p",
        'zip="01234"',
        "select $n + 1 as n, $name as a, $zip as z",
    )

    assert done.stdout == "n,a,z\n3,O'Brien; drop table x,01234\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["select $a"], "$a has no value"),
        (["-p", "b=1", "select $a"], "$a has no value"),
        (["-p", "a=1", "-p", "b=1", "select $a"], "no statement has a parameter $b; parameters are: $a"),
        (["-p", "a", "select 1"], "not of the form name=value"),
        (["-p", "a=1", "-p", "a=2", "select $a"], "given twice"),
        ([""], "there is no SQL statement"),
        (["-f", "missing.sql"], "does not exist"),
        (["-f", "job.sql", "select 1"], "not both"),
        (["-o", "out.xlsx", "select 1"], "tells no format"),
        (["--json", "--format", "csv", "select 1"], "contradict"),
        (["--json", "-o", "out.csv", "select 1"], "contradict"),
        (["-o", "out.csv", "set threads = 1"], "returns no rows"),
    ],
)
def test_what_cannot_be_run_as_asked_is_wrong_usage_and_runs_nothing(
    run: Run, folder: Path, arguments: list[str], reason: str
) -> None:
    (folder / "job.sql").write_text("select 1", "utf-8")
    done = run("sql", *arguments)

    assert done.exit_code == 2
    assert reason in done.stderr
    assert not list(folder.glob("out.*"))


def test_a_mistake_in_the_last_statement_keeps_the_first_from_running(run: Run) -> None:
    done = run("sql", "insert into fleming.endpoints (name) values ('early'); selec 1")

    assert done.exit_code == 1
    assert run("sql", "select count(*) as n from fleming.endpoints where name = 'early'").stdout == "n\n0\n"


def test_of_several_statements_the_one_that_failed_is_named(run: Run) -> None:
    done = run("sql", "create table t (a integer); insert into missing values (1); select 1")

    assert done.exit_code == 1
    assert "statement 2 of 3 failed; those before it have run: Catalog Error" in done.stderr


def test_a_statement_that_fails_leaves_the_file_as_it_was(run: Run, folder: Path) -> None:
    (folder / "out.csv").write_text("precious")

    done = run("sql", "-o", "out.csv", "select if(range > 5000, error('stop'), 'x') from range(10000)")

    assert done.exit_code == 1
    assert (folder / "out.csv").read_text() == "precious"
    assert sorted(path.name for path in folder.iterdir()) == ["fleming.duckdb", "out.csv"]


def test_the_summary_counts_calls_reuse_and_tokens_on_stderr(run: Run) -> None:
    first = run("sql", "select ai_query('chat', 'q' || range % 3) as a from range(6)")
    again = run("sql", "select ai_query('chat', 'q' || range % 3) as a from range(3)")
    silent = run("sql", "--no-summary", "select 1")

    assert re.match(r"6 rows · 6 calls \(3 from the cache\) · \d+ tokens in, [1-9]\d* out · \$0\.00 · ", first.stderr)
    assert again.stderr.startswith("3 rows · 3 calls (3 from the cache) · 0 tokens in, 0 out · $0.00 · ")
    assert silent.stderr == ""


def test_the_user_is_who_asks_in_the_log(run: Run) -> None:
    run("sql", "--user", "ada", "select ai_query('chat', 'Hello')")

    assert run("sql", "select requester from fleming.serving.inference").stdout == "requester\nada\n"


def test_rows_are_written_while_the_statement_runs(start: Start) -> None:
    process = start("sql", "--format", "jsonl", "select range from range(2_000_000_000)")
    assert process.stdout is not None

    assert process.stdout.readline() == '{"range": 0}\n'
    assert process.poll() is None


def test_ctrl_c_stops_the_calls_exits_with_130_and_leaves_the_log_whole(start: Start, store: Path) -> None:
    with MockModel(lambda received: Reply(hang=True)) as server:
        with fleming_sql.connect(gateway=store) as con:
            con.execute("insert into fleming.endpoints (name, max_concurrency) values ('slow', 20)")
            con.execute(
                "insert into fleming.served_entities (endpoint, name, provider, base_url) "
                "values ('slow', 'm', 'openai', ?)",
                [server.url],
            )
        process = start("sql", "-o", "out.csv", "select ai_query('slow', 'q' || range) from range(500)")
        server.wait_until(lambda server: server.in_flight == 20)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)

        assert server.request_count == 20

    assert (process.returncode, stdout, stderr.strip()) == (130, "", "interrupted")
    with fleming_sql.connect(gateway=store) as con:
        rows = con.execute("select error_code, count(*) from fleming.serving.inference group by all").fetchall()
    assert rows == [("CANCELLED", 20)]
    assert not store.with_name("out.csv").exists()


@pytest.mark.parametrize("form", ["json", "table", "parquet"])
@pytest.mark.parametrize("parameters", [(), ("-p", "word=late")])
def test_each_row_is_asked_about_once(run: Run, form: str, parameters: tuple[str, ...]) -> None:
    prompt = "'q' || range || $word" if parameters else "'q' || range"
    target = ("-o", "answers.parquet") if form == "parquet" else ("--format", form)
    with MockModel(echo_chat) as server:
        run("init", "--endpoint", "once", "--provider", "openai", "--model", "m", "--base-url", server.url)

        query = f"select ai_query('once', {prompt}, cache => false) as a, date '2026-01-01' as day from range(3)"
        done = run("sql", *target, *parameters, query)

        assert (done.exit_code, len(server.requests)) == (0, 3), done.stderr
