"""`fleming apply`: the difference first, one transaction, clear words for wrong files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]


CHAT = "endpoints:\n  - name: chat\n    max_retries: 1\n    served_entities:\n      - {name: a, provider: simulated}\n"


@pytest.fixture
def store(run: Run, folder: Path) -> Path:
    assert run("init").exit_code == 0
    return folder / "fleming.duckdb"


def write(text: str, name: str = "gateway.yaml") -> str:
    Path(name).write_text(text, "utf-8")
    return name


def exported(run: Run) -> str:
    return run("export").stdout.partition("\n\n")[2]


def test_the_difference_is_shown_and_applied(run: Run, store: Path) -> None:
    done = run("apply", write(CHAT), "--yes")

    assert done.exit_code == 0, done.output
    assert "  + chat\n      max_retries: 1\n" in done.stdout
    assert "2 added, 0 changed, 0 removed" in done.stdout
    assert "max_retries: 1" in exported(run)


def test_a_change_is_shown_column_by_column(run: Run, store: Path) -> None:
    run("apply", write(CHAT), "--yes")

    done = run("apply", write(CHAT.replace("max_retries: 1", "max_retries: 2")), "--dry-run")

    assert "  ~ chat\n      max_retries: 1 -> 2\n" in done.stdout


def test_applying_again_changes_nothing(run: Run, store: Path) -> None:
    run("apply", write(CHAT), "--yes")

    done = run("apply", write(CHAT))

    assert (done.exit_code, done.stdout) == (0, "")
    assert "nothing to change" in done.stderr


def test_a_dry_run_changes_nothing(run: Run, store: Path) -> None:
    assert run("apply", write(CHAT), "--dry-run").exit_code == 0

    assert exported(run) == ""


def test_without_a_terminal_and_yes_nothing_is_applied(run: Run, store: Path) -> None:
    done = run("apply", write(CHAT))

    assert done.exit_code == 1
    assert "--yes" in done.stderr
    assert exported(run) == ""


def test_the_difference_as_json(run: Run, store: Path) -> None:
    done = run("apply", write(CHAT), "--yes", "--json")

    found = json.loads(done.stdout)
    assert (found["applied"], found["added"]) == (True, 2)
    assert found["tables"]["endpoints"]["added"] == [{"row": "chat", "values": {"name": "chat", "max_retries": 1}}]


def test_prune_removes_what_the_file_does_not_have(run: Run, store: Path) -> None:
    run("apply", write(CHAT), "--yes")

    done = run("apply", write("endpoints: []\n"), "--yes", "--prune")

    assert "  - chat\n" in done.stdout
    assert exported(run) == ""


def test_a_file_that_makes_problems_is_refused_unless_forced(run: Run, store: Path) -> None:
    file = write(CHAT.replace("simulated", "simulatd"))

    refused = run("apply", file, "--yes")
    assert refused.exit_code == 1
    assert 'names the provider "simulatd"' in refused.stderr
    assert exported(run) == ""

    assert run("apply", file, "--yes", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("gateway.yaml", "endpoint:\n  - name: a\n", 'gateway.yaml:1: there is no table "endpoint"'),
        ("gateway.sql", "drop table endpoints", "gateway.sql:1: drop is not accepted"),
        ("gateway.txt", "", "the ending of gateway.txt tells no format"),
    ],
)
def test_a_wrong_file_is_refused_in_clear_words(run: Run, store: Path, name: str, text: str, told: str) -> None:
    done = run("apply", write(text, name), "--yes")

    assert done.exit_code == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_named(run: Run, store: Path) -> None:
    done = run("apply", "nothing.yaml")

    assert (done.exit_code, "nothing.yaml cannot be read" in done.stderr) == (1, True)


def test_the_standard_input_is_a_file_too(start: Start, store: Path) -> None:
    process = start("apply", "-", "--yes", stdin=subprocess.PIPE)
    out, error = process.communicate(CHAT, timeout=60)

    assert process.returncode == 0, error
    assert "2 added" in out


def test_a_new_row_is_shown_with_all_that_its_name_does_not_tell(run: Run, store: Path) -> None:
    text = (
        "budgets:\n"
        "  - {name: team, amount_usd: 5, scope: user, principal: ada, window: day, action: block}\n"
        "  - {amount_usd: 6, scope: global}\n"
    )

    done = run("apply", write(text), "--dry-run")

    lines = done.stdout.splitlines()
    named, unnamed = lines.index("  + team"), lines.index("  + global/month")
    assert sorted(line.strip() for line in lines[named + 1 : unnamed]) == [
        "action: block", "amount_usd: 5.0", "principal: ada", "scope: user", "window: day",
    ]  # fmt: skip
    assert lines[unnamed + 1 : -1] == ["      amount_usd: 6.0"]


def test_a_value_that_becomes_null_is_shown_as_null(run: Run, store: Path) -> None:
    run("apply", write(CHAT.replace("max_retries: 1", "description: mine")), "--yes")

    done = run("apply", write(CHAT.replace("max_retries: 1", "enabled: true")), "--dry-run")

    assert "      description: mine -> NULL\n" in done.stdout


def test_an_endpoint_that_would_be_open_to_all_is_told_in_the_difference(run: Run, store: Path) -> None:
    closed = "principals:\n  - name: ada\npermissions:\n  - {endpoint: chat, principal: ada}\n"
    assert run("apply", write(CHAT + closed), "--yes").exit_code == 0

    done = run("apply", write("permissions: []\n"), "--dry-run", "--prune")

    assert "  ! chat will be open to all: its last permission goes\n" in done.stdout


def test_a_problem_is_told_with_the_line_of_the_file(run: Run, store: Path) -> None:
    done = run("apply", write(CHAT.replace("simulated", "simulatd")), "--yes")

    assert "the file makes a new problem (gateway.yaml:5: table served_entities, row chat/a" in done.stderr
