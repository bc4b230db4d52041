"""`fleming doctor`: what a bug report needs, without secrets."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from fleming_sql.cli.doctor import EXTRAS

Run = Callable[..., Result]
ROOT = Path(__file__).resolve().parent.parent.parent


def facts(run: Run) -> dict[str, str]:
    return {fact["name"]: fact["value"] for fact in json.loads(run("doctor", "--json").stdout)}


def test_it_calls_a_simulated_model(run: Run, store: Path) -> None:
    done = run("doctor")

    assert done.exit_code == 0, done.output
    assert "works" in next(line for line in done.stdout.splitlines() if "ai_query" in line)


def test_it_tells_versions_and_the_state_of_the_store(run: Run, store: Path) -> None:
    found = facts(run)

    assert {"fleming-sql", "python", "duckdb", "event loop", "open files", "journal", "schema"} <= found.keys()
    assert found["schema"].split()[0].isdigit()


def test_without_a_store_it_says_how_to_make_one(run: Run, folder: Path) -> None:
    assert "fleming init" in facts(run)["state"]


def test_a_store_that_cannot_be_opened_is_a_problem(run: Run, folder: Path) -> None:
    (folder / "fleming.duckdb").write_bytes(b"this is no database")

    done = run("doctor")

    assert done.exit_code == 1
    assert "is not a readable DuckDB database" in done.stderr


def test_passwords_of_proxies_are_left_out(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:hunter2@proxy:3128")

    done = run("doctor")

    assert "http://proxy:3128" in done.stdout
    assert "hunter2" not in done.output


def test_paths_at_home_are_shortened(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(store.parent))
    monkeypatch.setenv("FLEMING_GATEWAY", str(store))

    assert facts(run)["path"] == "~/fleming.duckdb"


def test_the_extras_are_those_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]

    assert set(EXTRAS) == set(declared) - {"bench"}
    for extra, packages in EXTRAS.items():
        told = [re.split(r"[\[<>]", requirement)[0] for requirement in declared[extra]]
        assert set(packages) <= set(told)
