"""Finds and reads the files under `sql/`: inside the installed package, else beside it in a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fleming_sql.errors import StoreError

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One SQL file: its name without `.sql`, and its text."""

    name: str
    text: str


def sql_folder() -> Path:
    """Return the folder that holds `migrations/` and `objects/`.

    Raises:
        StoreError: The installation is broken: the folder is missing.
    """
    for folder in (_PACKAGE / "sql", _PACKAGE.parent / "sql"):
        if (folder / "migrations").is_dir():
            return folder
    raise StoreError(f"the SQL files of fleming-sql are missing beside {_PACKAGE.name}: reinstall the package")


def read_files(kind: str) -> list[SqlFile]:
    """Return the files of `migrations` or `objects` in the order of their numbers."""
    return [SqlFile(path.stem, path.read_text("utf-8")) for path in sorted((sql_folder() / kind).glob("*.sql"))]
