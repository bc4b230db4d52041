"""What others wrote, and what a terminal, a pipe or a machine does: nothing of it reaches further than its text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

import fleming_sql
from fleming_sql.testing import MockModel, chat_reply

Run = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]
ROOT = Path(__file__).resolve().parent.parent.parent
ESCAPE = "\x1b]0;pwned\x07\x1b[2J\x9bhi"
SHOWN = "\\x1b]0;pwned\\x07\\x1b[2J\\x9bhi"
SLOW = "select ai_query('chat', 'row ' || i) as a from range(10000) as t(i)"


@pytest.fixture
def model(folder: Path) -> Iterator[MockModel]:
    """A model whose answers hold terminal sequences, behind the endpoint `chat`."""
    with MockModel(lambda request: chat_reply(ESCAPE).delayed(0.01), record=False) as server:
        with fleming_sql.connect(gateway=str(folder / "fleming.duckdb")) as con:
            con.execute("insert into fleming.endpoints (name, max_concurrency) values ('chat', 50)")
            con.execute(
                "insert into fleming.served_entities (endpoint, name, provider, model, base_url) "
                "values ('chat', 'a', 'openai', 'm', ?)",
                [server.url.rstrip("/") + "/v1"],
            )
        yield server


def test_a_pipe_closed_by_its_reader_stops_the_calls(model: MockModel, start: Start) -> None:
    process = start("sql", "--format", "csv", SLOW)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141
    assert model.request_count < 6000


def test_terminal_sequences_of_answers_are_written_out_in_tables_and_traces(model: MockModel, run: Run) -> None:
    table = run("sql", "--format", "table", "select ai_query('chat', 'x') as a")
    assert SHOWN in table.stdout
    traced = run("endpoint", "test", "chat")
    assert SHOWN in traced.stdout
    logged = run("logs", "--columns", "response")
    assert "\x1b" not in table.output + traced.output + logged.output


def test_terminal_sequences_of_errors_are_written_out(store: Path, run: Run) -> None:
    done = run("sql", "select error(chr(27) || '[2J')")
    assert done.exit_code == 1
    assert "\\x1b[2J" in done.stderr
    assert "\x1b" not in done.stderr


def test_terminal_sequences_in_a_file_are_written_out_in_its_difference(store: Path, run: Run, folder: Path) -> None:
    (folder / "new.yaml").write_text('endpoints:\n  - name: b\n    description: "\\e[2Jhi"\n', "utf-8")
    done = run("apply", "new.yaml", "--dry-run")
    assert "\\x1b[2Jhi" in done.stdout
    assert "\x1b" not in done.stdout


def test_data_for_programs_keeps_its_control_characters(store: Path, run: Run) -> None:
    statement = "select chr(27) || '[2J' as a"
    assert run("sql", "--format", "csv", statement).stdout == "a\n\x1b[2J\n"
    assert json.loads(run("sql", "--json", statement).stdout) == [{"a": "\x1b[2J"}]


def test_an_exported_sql_file_keeps_control_characters(store: Path, run: Run, folder: Path) -> None:
    with fleming_sql.connect(gateway=str(store)) as con:
        con.execute("update fleming.endpoints set description = 'a' || chr(27) || '[31mred' || chr(13) || 'b'")
    text = run("export", "--format", "sql").stdout
    assert "\x1b" not in text
    (folder / "same.sql").write_text(text, "utf-8")
    assert "nothing to change" in run("apply", "same.sql", "--dry-run").stderr


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("interval 1 month", '"1 month"'),
        ("'infinity'::timestamp", '"infinity"'),
        ("'-infinity'::date", '"-infinity"'),
        ("'2020-01-01 00:00:00.123456789'::timestamp_ns", '"2020-01-01 00:00:00.123456789"'),
        ("[interval 1 month]", '["1 month"]'),
        ("{'DATE': date '2020-01-01', 'b': 1}", '{"DATE": "2020-01-01", "b": 1}'),
        ("123456789012345678901234567890123456.12::decimal(38, 2)", "123456789012345678901234567890123456.12"),
    ],
)
def test_values_that_python_has_no_exact_form_for_are_written_exactly(
    store: Path, run: Run, value: str, text: str
) -> None:
    done = run("sql", "--format", "jsonl", f"select {value} as v -- a comment")
    assert done.stdout == f'{{"v": {text}}}\n'


def test_csv_tells_an_empty_text_from_null(store: Path, run: Run) -> None:
    done = run("sql", "--format", "csv", "select null as a, '' as b, 'x,\"y' as c")
    assert done.stdout == 'a,b,c\n,"","x,""y"\n'


def test_a_parameter_beyond_64_bits_is_a_whole_number(store: Path, run: Run) -> None:
    done = run("sql", "--format", "csv", "-p", f"x={10**30}", "select $x as x, typeof($x) as t")
    assert done.stdout == f"x,t\n{10**30},HUGEINT\n"


def test_a_parameter_beyond_128_bits_is_refused(store: Path, run: Run) -> None:
    done = run("sql", "-p", f"x={10**50}", "select $x")
    assert done.exit_code == 2
    assert "too large" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="modes are of POSIX")
def test_a_result_keeps_the_mode_of_the_file_it_replaces(store: Path, run: Run, folder: Path) -> None:
    target = folder / "private.csv"
    target.touch(0o600)
    assert run("sql", "-o", "private.csv", "select 1 as a").exit_code == 0
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name == "nt", reason="signals are of POSIX")
def test_a_terminated_statement_leaves_no_unfinished_file(model: MockModel, start: Start, folder: Path) -> None:
    process = start("sql", "-o", "out.csv", SLOW)
    model.wait_until(lambda server: server.request_count > 0, 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not list(folder.glob(".out.csv.*")) + list(folder.glob("out.csv"))


def _shell(line: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLEMING": f"{sys.executable} -m fleming_sql", **variables}
    return subprocess.run(["sh", "-c", line], env=environment, capture_output=True, timeout=60, check=False)  # noqa: S607


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("printf 'select \\377' | $FLEMING sql", b"stdin is no text in UTF-8 (byte 7)"),
        ("$FLEMING sql \"$(printf 'select \\377')\"", b"is no text in UTF-8"),
        ("$FLEMING sql 'select 1' >&-", b"stdout is closed"),
        ("$FLEMING sql <&-", b"give a statement"),
    ],
)
def test_streams_and_arguments_that_are_no_text_are_told_in_words(line: str, words: bytes) -> None:
    done = _shell(line, LC_ALL="C")
    assert done.returncode == 2
    assert words in done.stderr
    assert b"Traceback" not in done.stderr


def test_doctor_shows_no_login_of_a_proxy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "ada:hunter2@proxy:3128")
    monkeypatch.setenv("https_proxy", "http://ada:hunter2@[::1")
    done = run("doctor")
    assert "proxy:3128" in done.output
    assert "hunter2" not in done.output


def test_doctor_reports_though_the_database_is_broken_and_there_is_no_home(
    store: Path, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broken.duckdb").write_text("no database")

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    done = run("doctor", "--database", "broken.duckdb", "--gateway", str(store))
    assert done.exit_code == 1
    assert "not a valid DuckDB database file" in done.stdout
    assert "self-test" in done.stdout


def test_check_survives_an_address_with_half_a_bracket(store: Path, run: Run) -> None:
    with fleming_sql.connect(gateway=str(store)) as con:
        con.execute(
            "insert into fleming.served_entities (endpoint, name, provider, model, base_url) "
            "values ('chat', 'b', 'openai', 'm', 'http://[::1/v1')"
        )
    done = run("check")
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "all tables" in done.stdout or "problem" in done.stdout
