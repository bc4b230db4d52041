"""The package as it is installed: light to import, complete in the wheel, its public names as listed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import fleming_sql

ROOT = Path(__file__).resolve().parent.parent


def test_the_public_names_are_these() -> None:
    assert sorted(fleming_sql.__all__) == ["Connection", "FlemingError", "__version__", "attach", "connect", "detach"]
    assert all(hasattr(fleming_sql, name) for name in fleming_sql.__all__)


def test_importing_starts_nothing_and_loads_no_extras() -> None:
    script = (
        "import sys, threading, fleming_sql\n"
        "heavy = {'keyring', 'pandas', 'polars', 'openai', 'litellm', 'starlette', 'dbt', 'IPython', 'deltalake'}\n"
        "heavy |= {'bpe_openai', 'tiktoken'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert threading.active_count() == 1\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.stderr == ""


def test_the_wheel_holds_the_sql_and_works_by_itself(tmp_path: Path) -> None:
    build = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")  # noqa: S202  made a moment ago
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())

    assert "fleming_sql/py.typed" in names
    shipped = {Path(name).name for name in names if name.startswith("fleming_sql/sql/")}
    assert {path.name for path in (ROOT / "sql").rglob("*") if path.is_file()} <= shipped
    script = "import fleming_sql; con = fleming_sql.connect(); print(con.sql('from fleming.endpoints').fetchall())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_module_fits_on_a_few_screens() -> None:
    long = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "fleming_sql").rglob("*.py")
        if len(path.read_text("utf-8").splitlines()) > 500
    ]

    assert long == []
