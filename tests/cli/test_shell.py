"""`fleming shell`: at a terminal and with statements from stdin."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from select import select

import pytest
from click.testing import Result
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

import fleming_sql
from fleming_sql.cli.prompt import SqlCompleter, is_complete
from fleming_sql.testing import MockModel, Reply

Run = Callable[..., Result]
AtTerminal = Callable[..., "Terminal"]
ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = (
    "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "  # Ctrl-C comes from one's own terminal
    "signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from fleming_sql.cli import main; main()"
)
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>])")


class Terminal:
    """A process at a terminal of 100 columns."""

    def __init__(self, *arguments: str) -> None:
        self._file, inner = pty.openpty()
        termios.tcsetwinsize(inner, (30, 100))
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "PYTHONPATH": str(ROOT)},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)
        self.shown = ""
        self._at = 0

    def type(self, text: str) -> None:
        os.write(self._file, text.encode())

    def until(self, pattern: str, timeout_s: float = 30) -> str:
        """Return what is shown from the last find to the first match of a pattern after it."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.compile(pattern).search(self.shown, self._at)):
            assert time.monotonic() < deadline, self.shown[self._at :]
            if select([self._file], [], [], 0.5)[0]:
                try:
                    text = os.read(self._file, 65536).decode(errors="replace")
                except OSError:
                    text = ""
                assert text, f"ended: {self.shown[self._at :]}"
                self.shown += _ESCAPES.sub("", text)
        text = self.shown[self._at : found.end()]
        self._at = found.end()
        return text

    def exit_code(self) -> int:
        try:
            while os.read(self._file, 65536):
                pass
        except OSError:  # how Linux tells that the other side is closed
            pass
        return self._process.wait(timeout=30)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._file)


@pytest.fixture
def at_terminal(store: Path) -> Iterator[Callable[..., Terminal]]:
    """Start the command at a terminal, on a store with the endpoint `chat`."""
    with ExitStack() as opened:

        def begin(*arguments: str) -> Terminal:
            terminal = Terminal(*arguments)
            opened.callback(terminal.close)
            return terminal

        yield begin


def test_the_shell_runs_statements_of_several_lines_and_keeps_a_private_history(
    at_terminal: AtTerminal, folder: Path
) -> None:
    terminal = at_terminal("shell")
    terminal.until("fleming>")
    terminal.type("select 42\r")
    terminal.until(r"\.\.\.")
    terminal.type("as answer;\r")
    assert "│     42 │" in terminal.until("1 row")
    terminal.until("fleming>")
    terminal.type("select nothing_there;\r")
    terminal.until("Error: Binder Error")
    terminal.until("fleming>")
    terminal.type("\x04")

    assert terminal.exit_code() == 0
    history = folder / "state" / "fleming" / "shell_history"
    assert "select 42" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_the_statement_and_not_the_shell(at_terminal: AtTerminal, store: Path) -> None:
    with MockModel(lambda received: Reply(hang=True)) as server:
        with fleming_sql.connect(gateway=store) as con:
            con.execute("insert into fleming.endpoints (name) values ('slow')")
            con.execute(
                "insert into fleming.served_entities (endpoint, name, provider, base_url) "
                "values ('slow', 'm', 'openai', ?)",
                [server.url],
            )
        terminal = at_terminal("shell")
        terminal.until("fleming>")
        terminal.type("select ai_query('slow', 'Hello');\r")
        server.wait_until(lambda server: server.in_flight == 1, 30)
        terminal.type("\x03")
        terminal.until("interrupted")
        terminal.until("fleming>")
        terminal.type("select error_code, count(*) as n from fleming.serving.inference group by all;\r")
        assert "CANCELLED" in terminal.until("1 row")
        terminal.until("fleming>")
        terminal.type(".quit\r")

        assert terminal.exit_code() == 0


def test_a_terminal_gets_a_table_that_fits_and_shows_its_first_rows(at_terminal: AtTerminal) -> None:
    terminal = at_terminal("sql", "--max-rows", "2", "select range as id, repeat('word ', 40) as text from range(5)")

    shown = terminal.until("5 rows")

    assert max(map(len, shown.splitlines())) <= 100
    assert "3 more rows are not shown" in shown
    assert terminal.exit_code() == 0


def test_a_terminal_gets_a_chart_of_usage(run: Run, at_terminal: AtTerminal) -> None:
    run("sql", "select ai_query('chat', 'Hello')")
    terminal = at_terminal("usage", "--by", "endpoint")

    assert "chat █" in terminal.until(r"█ 1\b")


def test_many_columns_are_shown_as_one_block_for_each_row(at_terminal: AtTerminal) -> None:
    terminal = at_terminal("sql", f"select {', '.join(f'{number} as column_{number}' for number in range(20))}")

    assert "column_19  19" in terminal.until("1 row ")


def test_the_log_has_a_line_for_each_call_at_a_terminal(run: Run, at_terminal: AtTerminal) -> None:
    run("sql", "select ai_query('a-name-that-no-endpoint-has', 'Hello', failOnError => false)")
    terminal = at_terminal("logs")

    lines = terminal.until("╰.*╯").strip().splitlines()

    assert len(lines) == 5
    assert all(name in lines[1] for name in ("time", "endpoint", "user", "status", "ms", "error"))
    assert "a-name-that-no-endpoint-has" in lines[3]
    assert "404" in lines[3]
    assert "…" in lines[3]


def test_a_table_whose_headers_do_not_fit_is_shown_row_by_row(at_terminal: AtTerminal) -> None:
    names = [f"a_column_with_a_long_name_{number}" for number in range(4)]
    terminal = at_terminal("sql", f"select {', '.join(f'{number} as {name}' for number, name in enumerate(names))}")

    assert "a_column_with_a_long_name_3  3" in terminal.until("1 row ")


def test_a_header_is_not_broken_where_another_column_can_give_way(at_terminal: AtTerminal) -> None:
    name = "a_column_with_a_name_of_forty_characters_"
    terminal = at_terminal("sql", f"select 'x' as {name}, repeat('word ', 60) as text")

    assert f"│ {name} │" in terminal.until("1 row ")


@pytest.mark.parametrize("word", ["exit", "quit;"])
def test_exit_and_quit_leave_the_shell(run: Run, at_terminal: AtTerminal, word: str) -> None:
    terminal = at_terminal("shell")
    terminal.until("fleming>")
    terminal.type(f"{word}\r")
    assert terminal.exit_code() == 0

    done = run("shell", stdin=f"select 1 as a;\n{word}\nselect 'never'")
    assert (done.exit_code, done.stdout) == (0, "a\n1\n")


def test_the_shell_names_the_store_that_lacks_an_endpoint(run: Run, store: Path) -> None:
    done = run("shell", stdin="select ai_query('nope', 'Hello');")

    assert 'no endpoint "nope" in fleming.endpoints of the gateway store fleming.duckdb; ' in done.stderr


def test_the_shell_reads_statements_where_there_is_no_terminal(run: Run, store: Path) -> None:
    done = run("shell", stdin=".timer off\nselect 1 as a;\nselect\n2 as b; select 3 as c\n;\n.mode csv\nselect 4 as d")

    assert done.exit_code == 0
    assert done.stdout == "a\n1\nb\n2\nc\n3\nd\n4\n"
    assert done.stderr == ""


def test_the_first_statement_that_fails_is_the_last_from_stdin(run: Run, store: Path) -> None:
    done = run("shell", stdin="select 1 as a;\n.mode nope\nselect 2 as b;\n")

    assert done.exit_code == 1
    assert done.stdout == "a\n1\n"
    assert ".mode takes one of table" in done.stderr


def test_dot_commands_tell_of_endpoints_tables_and_themselves(run: Run, store: Path) -> None:
    done = run("shell", stdin=".help\n.endpoints\n.tables\n.quit\nselect 'never'")

    assert all(name in done.stdout for name in (".help", ".tables", ".endpoints", ".timer", ".mode", ".quit"))
    assert "simulated/demo" in done.stdout
    assert re.search(r"fleming +serving +inference +view", done.stdout)
    assert "never" not in done.stdout


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("select 1;", True),
        ("select 1", False),
        ("select ';", False),
        ("select ';';", True),
        ("select 1; -- later", True),
        ("select 1 -- ;", False),
        ("select /* ;", False),
        ('select ";', False),
        ("select $$;", False),
        (".help", True),
        ("", True),
    ],
)
def test_a_statement_is_complete_at_a_semicolon_that_is_in_no_quotes(text: str, complete: bool) -> None:
    assert is_complete(text) is complete


def test_names_are_completed_as_they_are_now(con: fleming_sql.Connection) -> None:
    con.execute("insert into fleming.endpoints (name) values ('chat'), ('chart'), ('other')")
    con.execute("create table reviews (stars integer)")

    def offered(text: str) -> list[str]:
        found = SqlCompleter(con).get_completions(Document(text), CompleteEvent())
        return [completion.text for completion in found]

    assert offered("select ai_query('ch") == ["chart", "chat"]
    assert "ai_query" in offered("select ai_q")
    assert offered("from revi") == ["reviews"]
    assert "stars" in offered("select star")
    assert "fleming.serving.inference" in offered("from fleming.serving.inf")
    assert "select" in offered("sel")
    assert offered("select ") == []
