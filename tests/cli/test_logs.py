"""`fleming logs`: the newest calls, and those that come."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import fleming_sql

Run = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]
COLUMNS = "requester,status_code,request"


def ask(store: Path, *questions: str, user: str = "ada") -> None:
    with fleming_sql.connect(gateway=store, user=user) as con:
        for question in questions:
            con.execute("select ai_query('chat', ?)", [question]).fetchall()


@pytest.fixture
def logged(store: Path) -> Path:
    """A log of three answered calls and a refused one."""
    ask(store, "one", "two")
    ask(store, "three", user="bob")
    with fleming_sql.connect(gateway=store, user="bob") as con:
        con.execute("select ai_query('nope', 'four', failOnError => false)").fetchall()
    return store


def requests(done: Result) -> list[Any]:
    assert done.exit_code == 0, done.stderr
    return [row["status_code"] if row["request"] is None else row["request"] for row in json.loads(done.stdout)]


def test_logs_show_the_newest_calls_last_and_filter_them(run: Run, logged: Path) -> None:
    def shown(*arguments: str) -> list[str]:
        done = run("logs", "--json", "--columns", "requester,status_code,endpoint_name", *arguments)
        assert done.exit_code == 0, done.stderr
        return [f"{row['requester']} {row['endpoint_name']}" for row in json.loads(done.stdout)]

    assert shown() == ["ada chat", "ada chat", "bob chat", "bob nope"]
    assert shown("-n", "2") == ["bob chat", "bob nope"]
    assert shown("--user", "ada") == ["ada chat", "ada chat"]
    assert shown("--endpoint", "nope") == ["bob nope"]
    assert shown("--status", "ok", "-n", "1") == ["bob chat"]
    assert shown("--status", "error") == ["bob nope"]
    assert shown("--status", "404") == ["bob nope"]
    assert shown("--status", "resource_does_not_exist") == ["bob nope"]
    assert shown("--status", "429") == []
    assert shown("--since", "1h", "-n", "1") == ["bob nope"]


def test_bodies_are_shown_when_asked_for(run: Run, logged: Path) -> None:
    without = run("logs", "--json", "-n", "2", "--status", "ok")
    with_bodies = json.loads(run("logs", "--json", "-n", "1", "--status", "ok", "--bodies").stdout)

    assert "three" not in without.stdout
    assert "three" in with_bodies[0]["request"]
    assert "simulated answer to: three" in with_bodies[0]["response"]


def test_logs_in_a_pipe_are_one_line_for_each_call(run: Run, logged: Path) -> None:
    lines = run("logs").stdout.splitlines()

    assert len(lines) == 5
    assert lines[0].split()[0] == "request_time"
    assert "RESOURCE_DOES_NOT_EXIST" in lines[-1]


def test_a_filter_that_no_call_passes_is_told(run: Run, logged: Path) -> None:
    done = run("logs", "--status", "429", "--json")

    assert (done.exit_code, json.loads(done.stdout)) == (0, [])
    assert done.stderr == "no calls\n"


def test_a_status_that_no_call_can_have_is_wrong_usage(run: Run, logged: Path) -> None:
    done = run("logs", "--status", "resource_does_not_exits")

    assert done.exit_code == 2
    assert "or a code: RESOURCE_DOES_NOT_EXIST" in done.stderr


def test_an_unknown_column_is_answered_with_those_there_are(run: Run, logged: Path) -> None:
    done = run("logs", "--columns", "request_time,colour")

    assert done.exit_code == 2
    assert "there is no column 'colour'; there are: attempts, cache_hit" in done.stderr


def test_reading_the_log_leaves_the_store_as_it_was(run: Run, logged: Path) -> None:
    before = logged.read_bytes()

    assert run("logs").exit_code == 0
    assert run("usage").exit_code == 0
    assert logged.read_bytes() == before


def test_two_can_read_a_store_at_the_same_time(run: Run, logged: Path) -> None:
    hold = (
        "import duckdb, sys\n"
        f"duckdb.connect().execute(\"attach '{logged}' as fleming (read_only)\")\n"
        "con = duckdb.connect()\n"
        f"con.execute(\"attach '{logged}' as fleming (read_only)\")\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"

        done = run("logs")

        reader.communicate(timeout=20)
    assert done.exit_code == 0, done.stderr


HOLD = """
import fleming_sql, os, sys
con = fleming_sql.connect(gateway=sys.argv[1], user="holder")
print("open", flush=True)
sys.stdin.readline()
con.execute("select ai_query('chat', 'held')").fetchall()
os._exit(9) if sys.argv[2:] else con.close()
"""


def holder(store: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_a_store_that_another_process_has_open_is_named_with_the_way_out(run: Run, logged: Path) -> None:
    with holder(logged) as process:
        done = run("logs")
        process.communicate("\n", timeout=20)

    assert done.exit_code == 1
    assert f"the gateway store fleming.duckdb is open in another process (PID {process.pid})" in done.stderr
    assert "name another store with --gateway\n" in done.stderr
    assert "wait with `fleming logs --follow`" in done.stderr
    assert not any(word in done.stderr for word in ("gateway=", "IO Error", "Conflicting lock"))


def test_calls_of_a_killed_process_are_shown(run: Run, logged: Path) -> None:
    with holder(logged, "die") as process:
        process.communicate("\n", timeout=20)
    assert process.returncode == 9

    assert "holder" in run("logs", "-n", "1").stdout


def test_follow_shows_calls_as_they_come_and_lets_others_write(start: Start, logged: Path) -> None:
    process = start("logs", "--follow", "-n", "1", "--columns", "requester,status_code")
    assert process.stdout is not None
    assert [process.stdout.readline().split() for _ in range(2)] == [["requester", "status_code"], ["bob", "404"]]

    ask(logged, "five", user="cleo")

    assert process.stdout.readline().split() == ["cleo", "200"]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


def test_follow_waits_for_a_store_that_is_in_use(start: Start, logged: Path) -> None:
    with holder(logged) as writer:
        process = start("logs", "--follow", "--json", "-n", "1", "--columns", "requester")
        assert process.stdout is not None
        assert process.stderr is not None
        assert "is open in another process; its calls are shown when it has closed it" in process.stderr.readline()
        writer.communicate("\n", timeout=20)

    assert json.loads(process.stdout.readline()) == {"requester": "holder"}
