"""The command as its user has it: in a folder of its own, with the gateway in that folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleming_sql.cli.main import fleming as command

Run = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]
ROOT = Path(__file__).resolve().parent.parent.parent
# A shell may have Ctrl-C ignored in what it runs in the background.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from fleming_sql.cli import main; main()"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in; nothing of the machine's own settings reaches them."""
    for name in ("FLEMING_GATEWAY", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run() -> Run:
    """Run the command in this process."""

    def invoke(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(command, arguments, input=stdin, prog_name="fleming")

    return invoke


@pytest.fixture
def store(run: Run, folder: Path) -> Path:
    """A store in the folder, with the endpoint `chat` on simulated answers."""
    done = run("init", "--example")
    assert done.exit_code == 0, done.output
    return folder / "fleming.duckdb"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the command as a process, with pipes for its streams."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, stdin: int | None = subprocess.DEVNULL) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()
