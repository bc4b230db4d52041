"""The progress bar as its reader meets it: a process with a terminal, real or not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from fleming_sql.progress import Figures
from fleming_sql.progress.figures import money

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are of Unix")

ROOT: Final = Path(__file__).resolve().parent.parent
TAKE_TERMINAL: Final = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # else the terminal would not send this process what Ctrl-C means
__file__ = "script.py"  # else DuckDB believes itself at a prompt, and draws a bar of its own
"""
ERASED: Final = "\r\x1b[2K"
SET_UP: Final = """
import fleming_sql, duckdb
OPTIONS = {options}
con = fleming_sql.connect(**OPTIONS)
con.execute('''
    insert into fleming.endpoints (name, max_concurrency, max_retries) values ('chat', 4, 0);
    insert into fleming.served_entities (endpoint, name, provider, model, parameters)
    values ('chat', 'demo', 'simulated', 'demo', '{{"latency_ms": {latency_ms}, "error_rate": {error_rate}}}');
    insert into fleming.model_prices (provider, model, input_per_million, output_per_million)
    values ('simulated', 'demo', 1000, 1000);
''')
"""
ASK: Final = SET_UP + "con.execute('''{statement}''')\nprint('after')\n"


def script(
    statement: str = "create table a as select ai_query('chat', 'Ticket ' || range) from range(12)",
    *,
    latency_ms: int = 600,
    error_rate: float = 0.0,
    text: str = ASK,
    **options: object,
) -> str:
    return text.format(statement=statement, latency_ms=latency_ms, error_rate=error_rate, options=options)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS")}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "120", **more}


class Terminal:
    """A pseudo-terminal and a process in it."""

    def __init__(self, code: str, *, stdout: int | None = None, **more: str) -> None:
        self._ours, theirs = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL + code],
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs,
            env=environment(**more),
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def read(self, until: Callable[[str], bool] = lambda shown: False) -> str:
        """Return what is shown in the end, or as soon as `until` holds of it."""
        while not until(self.shown):
            try:
                some = os.read(self._ours, 65536)
            except OSError:  # Linux says so at the end
                some = b""
            if not some:
                self.process.wait(30)
                os.close(self._ours)
                break
            self.shown += some.decode()
        return self.shown

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)


def lines(shown: str) -> list[str]:
    """Return what each line of a terminal says in the end, and what it said in between, without colours."""
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.split(ERASED)]


@pytest.fixture(scope="module")
def usual() -> str:
    """What a terminal gets to see of a statement that takes about two seconds."""
    return Terminal(script()).read()


def test_a_statement_that_takes_longer_than_a_second_shows_calls_rate_cost_and_tokens(usual: str) -> None:
    drawn = lines(usual)

    pattern = r"ai_query [━╸╺ ]+ (\d+)/12 calls  \d+ rows/s  \$0\.\d+  \d+ tokens"
    matches = [re.fullmatch(pattern, line) for line in drawn[1:-1]]
    assert all(matches), drawn
    assert len(matches) >= 2
    done = [int(match[1]) for match in matches if match]
    assert done == sorted(done)
    assert 0 < done[0] < 12


def test_the_line_is_gone_when_the_next_thing_is_printed(usual: str) -> None:
    assert usual.split(ERASED)[-1].strip() == "after"


def test_errors_are_counted_and_do_not_end_the_line() -> None:
    statement = "select ai_query('chat', 'Ticket ' || range, failOnError => false) from range(12)"

    shown = Terminal(script(statement, error_rate=1.0)).read()

    assert any(re.search(r"\d errors  ", line) for line in lines(shown))


def test_the_message_of_an_error_stands_on_a_clean_line() -> None:
    shown = Terminal(script("select ai_query('chat', 'Ticket')", error_rate=1.0, latency_ms=1500)).read()

    assert "ai_query" in lines(shown)[1]
    assert lines(shown)[-1].startswith("Traceback")
    assert "REMOTE_FUNCTION_HTTP_FAILED_ERROR" in lines(shown)[-1]


def test_an_interrupt_leaves_a_clean_line() -> None:
    caught = ASK.replace("con.execute('''{statement}''')\n", "try:\n    con.execute('''{statement}''')\n")
    caught = caught.replace(
        "print('after')", "except (KeyboardInterrupt, RuntimeError, duckdb.Error):\n    print('after')"
    )
    terminal = Terminal(script("select ai_query('chat', 'Ticket ' || range) from range(400)", text=caught))
    terminal.read(lambda shown: "/400 calls" in shown)

    terminal.type(b"\x03")

    assert terminal.read().split(ERASED)[-1].strip() == "after"


def test_there_is_no_bar_for_quick_statements_in_ci_in_dumb_terminals_and_where_it_is_switched_off() -> None:
    terminals = [
        Terminal(script(latency_ms=1)),
        Terminal(script(), CI="true"),
        Terminal(script(), TERM="dumb"),
        Terminal(script(progress=False)),
    ]

    assert [terminal.read().strip() for terminal in terminals] == ["after"] * 4


def test_nothing_is_written_into_pipes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", script(progress=True)],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )

    assert (done.stdout, done.stderr) == ("after\n", "")


@pytest.mark.parametrize("wanted", [None, True])
def test_a_terminal_beside_a_pipe_has_a_bar_only_on_demand(wanted: bool | None) -> None:
    ours, theirs = os.pipe()
    terminal = Terminal(script(progress=wanted), stdout=theirs)
    os.close(theirs)

    shown = terminal.read()

    assert os.read(ours, 100) == b"after\n"
    os.close(ours)
    assert ("/12 calls" in shown) is bool(wanted), shown


def test_an_attached_connection_and_its_cursors_show_it_too() -> None:
    attached = SET_UP.replace("connect(**OPTIONS)", "attach(duckdb.connect())")
    code = script(text=attached + "con.cursor().execute('''{statement}''')\nprint('after')\n")

    assert "/12 calls" in Terminal(code).read()


def test_reused_answers_are_told_apart() -> None:
    statement = "select ai_query('chat', 'Ticket ' || range % 6) from range(12)"

    shown = Terminal(script(statement, latency_ms=1100)).read()

    assert any(re.search(r"[1-6] reused", line) for line in lines(shown))


def test_a_narrow_terminal_keeps_it_in_one_line() -> None:
    drawn = lines(Terminal(script(), COLUMNS="40").read())[1:-1]

    assert max(map(len, drawn)) < 40
    assert "\n" not in "".join(drawn)


def test_unknown_prices_are_said_to_be_unknown() -> None:
    assert "cost unknown" in Figures(done=1, is_cost_partial=True, seconds=1).words()
    assert "at least $0.50" in Figures(done=2, cost_usd=0.5, is_cost_partial=True, seconds=1).words()


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0, "$0"), (0.000123, "$0.00012"), (0.0000001, "$0.0000001"), (0.5, "$0.50"), (1234.5, "$1,234.50")],
)
def test_amounts_have_two_digits_that_count(usd: float, text: str) -> None:
    assert money(usd) == text
