"""The demo as its reader starts it: a process of its own, in another folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_demo(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py"), *arguments],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_the_demo_shows_three_statements_their_log_and_a_free_rerun(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--rows", "40")

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "SIMULATED" in done.stdout.splitlines()[0]
    for name in ("classify", "summarise", "extract"):
        assert (ROOT / "examples" / "sql" / f"{name}.sql").read_text("utf-8").strip() in done.stdout
    empty = re.findall(r"^40 rows in \d+\.\d\d s\. (\d+) of them have no text", done.stdout, re.MULTILINE)
    assert len(empty) == 3
    calls = re.findall(r"│ (?:classify|summarise|extract) +│ +(\d+) │ +0 │ +0 │", done.stdout)
    assert calls == [str(40 - int(rows)) for rows in empty]
    assert "sent 0 requests" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 110


def test_the_demo_keeps_its_tables_and_its_log_in_a_file(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--rows", "3", "--database", "demo.duckdb")

    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.duckdb", "demo.fleming.duckdb"]


def test_the_demo_runs_in_a_terminal_without_unicode(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--rows", "10", PYTHONIOENCODING="ascii")

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.isascii()
    assert "| ticket_id |" in done.stdout


def test_the_demo_says_what_a_model_that_was_asked_for_lacks(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--model", "openai")

    assert done.returncode == 2
    assert "OPENAI_API_KEY is not set" in done.stdout
