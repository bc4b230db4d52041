"""What all commands have in common: help, the store, exit codes, errors, pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import duckdb
import pytest
from click.testing import Result

from fleming_sql.cli.main import COMMANDS
from fleming_sql.cli.main import fleming as command

Run = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]
ROOT = Path(__file__).resolve().parent.parent.parent
READERS = (["sql", "select 1"], ["usage"], ["logs"], ["shell"])


def commands(group: click.Group = command, path: str = "fleming") -> Iterator[tuple[str, click.Command]]:
    """Yield each command with the words that run it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield f"{path} {name}", found
        if isinstance(found, click.Group):
            yield from commands(found, f"{path} {name}")


ALL = dict(commands())


@pytest.mark.parametrize("path", ALL)
def test_the_help_of_each_command_shows_an_example_of_it(run: Run, path: str) -> None:
    done = run(*path.split()[1:], "--help")

    assert done.exit_code == 0
    assert path in done.stdout.partition("Examples:")[2], done.stdout


@pytest.mark.parametrize("path", ALL)
def test_each_command_is_in_the_documents(path: str) -> None:
    assert path in (ROOT / "docs" / "cli.md").read_text("utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    help_text = ALL[f"fleming {name}"].help or ""

    assert help_text.partition("\n")[0] == COMMANDS[name].summary


def test_the_list_of_commands_loads_none_of_them() -> None:
    script = (
        "import atexit, sys\n"
        "from fleming_sql.cli import main\n"
        "heavy = {'prompt_toolkit', 'rich', 'yaml', 'duckdb', 'fleming_sql.connection', 'fleming_sql.cli.shell'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "main()\n"
    )

    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "sql       Run SQL statements" in done.stdout


@pytest.mark.parametrize("arguments", READERS)
def test_a_store_that_does_not_exist_is_answered_with_how_to_make_one(
    run: Run, folder: Path, arguments: list[str]
) -> None:
    done = run(*arguments)

    assert done.exit_code == 1
    assert done.stdout == ""
    assert "no gateway store fleming.duckdb" in done.stderr
    assert "`fleming init`" in done.stderr
    assert list(folder.iterdir()) == []


def test_the_store_is_the_one_of_the_environment(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEMING_GATEWAY", "elsewhere.duckdb")

    assert run("init").exit_code == 0
    assert run("sql", "select 1").exit_code == 0
    assert [path.name for path in folder.iterdir()] == ["elsewhere.duckdb"]


def test_the_store_of_the_option_wins_over_that_of_the_environment(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEMING_GATEWAY", "missing.duckdb")

    assert run("sql", "select 1").exit_code == 1
    assert run("sql", "select 1", "--gateway", str(store)).exit_code == 0


def test_a_database_has_its_store_beside_it(run: Run, folder: Path) -> None:
    done = run("sql", "--database", "shop.duckdb", "create table t as select 1 as a")

    assert done.exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["shop.duckdb", "shop.fleming.duckdb"]


def test_a_database_without_a_store_beside_it_goes_with_that_of_the_folder(run: Run, store: Path, folder: Path) -> None:
    done = run("sql", "--database", "shop.duckdb", "select ai_query('chat', 'Hello') as answer")

    assert done.stdout == "answer\nThis is a simulated answer to: Hello\n"
    assert "made" not in done.stderr
    assert not (folder / "shop.fleming.duckdb").exists()


def test_the_store_beside_a_database_comes_before_that_of_the_folder(run: Run, store: Path, folder: Path) -> None:
    assert run("init", "--database", "shop.duckdb").exit_code == 0

    done = run("sql", "--database", "shop.duckdb", "select count(*) as n from fleming.endpoints")

    assert done.stdout == "n\n0\n"


def test_a_store_that_nobody_asked_for_is_told_of(run: Run, folder: Path) -> None:
    first = run("sql", "--no-summary", "--database", "shop.duckdb", "select 1 as a")
    again = run("sql", "--no-summary", "--database", "shop.duckdb", "select 1 as a")

    assert first.stderr == "made the gateway store shop.fleming.duckdb; --gateway names another\n"
    assert first.stdout == "a\n1\n"
    assert again.stderr == ""


def test_a_database_called_as_a_store_is_not_taken_for_one(run: Run, folder: Path) -> None:
    duckdb.connect("fleming.duckdb").close()

    done = run("sql", "--database", "fleming.duckdb", "select 1 as a")

    assert done.exit_code == 1
    assert 'already has a database called "fleming"' in done.stderr


def test_an_unknown_endpoint_is_told_with_the_store_that_lacks_it(run: Run, store: Path) -> None:
    for statement in ("select ai_query('nope', 'Hello')", "select 1; select ai_query('nope', 'Hello')"):
        done = run("sql", statement)

        assert 'no endpoint "nope" in fleming.endpoints of the gateway store fleming.duckdb; ' in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("sql", "select ai_query('nope', 'Hello')"),
        ("sql", "select 1; select ai_query('nope', 'Hello')"),
        ("endpoint", "test", "nope"),
    ],
)
def test_with_json_the_error_of_a_call_has_its_condition_status_and_request_id(
    run: Run, store: Path, arguments: tuple[str, ...]
) -> None:
    error = json.loads(run(*arguments, "--json").stderr)["error"]
    [logged] = json.loads(run("logs", "--json", "-n", "1", "--columns", "databricks_request_id").stdout)

    assert (error["condition"], error["status"]) == ("RESOURCE_DOES_NOT_EXIST", 404)
    assert error["request_id"] == logged["databricks_request_id"]


def test_with_json_the_error_of_a_wrong_argument_has_its_condition_only(run: Run, store: Path) -> None:
    done = run("sql", "--json", "select ai_query('chat', 'Hello', returnType => 'STRUKT<a>')")

    error = json.loads(done.stderr)["error"]
    assert error["condition"] in error["message"]
    assert error.keys() == {"type", "message", "exit_code", "condition"}


def test_with_json_another_error_has_no_condition(run: Run, store: Path) -> None:
    error = json.loads(run("sql", "--json", "select nothing").stderr)["error"]

    assert error.keys() == {"type", "message", "exit_code"}


def test_errors_speak_of_the_options_of_the_command(run: Run, folder: Path) -> None:
    done = run("init", "no/such/folder/gateway.duckdb")

    assert "Name a folder that can be written with --gateway\n" in done.stderr


def test_an_address_is_no_store(run: Run) -> None:
    done = run("usage", "--gateway", "https://gateway.example")

    assert done.exit_code == 1
    assert "an address" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nope"], "No such command 'nope'"),
        (["usage", "--nope"], "No such option"),
        (["usage", "--chart", "pie"], "'pie' is not one of"),
        (["logs", "-n", "many"], "'many' is not a valid integer"),
        (["usage", "--by", "colour"], "nothing to group by"),
        (["usage", "--since", "yesterday"], "no point in time"),
        (["logs", "--since", "2026-13-01"], "no point in time"),
    ],
)
def test_wrong_usage_exits_with_2(run: Run, arguments: list[str], reason: str) -> None:
    done = run(*arguments)

    assert done.exit_code == 2
    assert reason in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["usage", "--nope"], 2, "NoSuchOption"),
        (["sql", "select 1", "--gateway", "missing.duckdb"], 1, "NoStore"),
        (["sql", "selec 1"], 1, "ParserException"),
        (["sql", "select ai_query('nope', 'x')"], 1, "InvalidInputException"),
    ],
)
def test_with_json_an_error_is_one_object_on_stderr(
    run: Run, store: Path, arguments: list[str], code: int, kind: str
) -> None:
    done = run(*arguments, "--json")

    assert done.exit_code == code
    assert done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert (error["type"], error["exit_code"]) == (kind, code)
    assert "Traceback" not in error["message"]
    assert "executing the UDF" not in error["message"]


def test_a_file_that_is_no_store_is_told_in_one_line(run: Run, folder: Path) -> None:
    (folder / "fleming.duckdb").write_text("not a database")

    for arguments in READERS:
        done = run(*arguments)
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: the gateway store fleming.duckdb is not a readable DuckDB database")


def test_a_reader_that_goes_away_ends_the_command_quietly(start: Start, store: Path) -> None:
    process = start("sql", "--format", "csv", "select range from range(100_000_000)")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "range\n"
    process.stdout.close()

    assert process.wait(timeout=30) == 141
    assert process.stderr.read() == ""
