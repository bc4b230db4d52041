"""`fleming export`: one readable file, which `fleming apply` takes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.mark.parametrize("name", ["gateway.yaml", "gateway.sql"])
def test_an_exported_file_applies_to_nothing(run: Run, store: Path, name: str) -> None:
    assert run("export", "-o", name).exit_code == 0

    assert "nothing to change" in run("apply", name).stderr


def test_without_a_file_it_goes_to_the_standard_output(run: Run, store: Path) -> None:
    done = run("export", "--format", "sql")

    assert done.exit_code == 0
    assert "insert into fleming.endpoints (name" in done.stdout


def test_json_holds_the_file(run: Run, store: Path) -> None:
    found = json.loads(run("export", "--json").stdout)

    assert found["format"] == "yaml"
    assert "endpoints:" in found["configuration"]


def test_a_file_that_cannot_be_written_is_named(run: Run, store: Path) -> None:
    done = run("export", "-o", "nowhere/gateway.yaml")

    assert done.exit_code == 1
    assert "nowhere/gateway.yaml cannot be written" in done.stderr


def test_without_a_store_there_is_nothing_to_export(run: Run, folder: Path) -> None:
    done = run("export", "-o", "gateway.yaml")

    assert done.exit_code == 1
    assert not (folder / "gateway.yaml").exists()
