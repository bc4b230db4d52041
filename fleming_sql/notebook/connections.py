"""Finds the DuckDB connection that a notebook works with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import duckdb

from fleming_sql.connection import Connection
from fleming_sql.notebook.errors import CellError

Con: TypeAlias = "duckdb.DuckDBPyConnection | Connection"

_USUAL_NAMES: Final = ("con", "conn")
DEFAULT: Final = "duckdb's default connection"


class NoConnection(CellError):
    """It cannot be said which connection is meant."""


@dataclass(frozen=True, slots=True)
class Found:
    """A connection and how the notebook knows it."""

    con: Con
    name: str

    @property
    def is_default(self) -> bool:
        """Whether it is the one behind `duckdb.sql(…)`, taken since the notebook has no other."""
        return self.name == DEFAULT


def find(variables: Mapping[str, Any], wanted: str | None = None) -> Found:
    """Return the connection to use.

    In this order: the one that is asked for; the variable `con` or `conn`; JupySQL's current connection; the only
    variable that holds one; DuckDB's default connection.

    Args:
        variables: The notebook's.
        wanted: Name of a variable.

    Raises:
        NoConnection: The variable holds none, or several hold one and none of them is called `con` or `conn`.
    """
    if wanted is not None:
        return Found(_named(variables, wanted), wanted)
    for name in _USUAL_NAMES:
        if is_connection(variables.get(name)):
            return Found(variables[name], name)
    current = _of_jupysql()
    if current is not None:
        return Found(current, "JupySQL's current connection")
    others = {id(value): name for name, value in variables.items() if name[:1] != "_" and is_connection(value)}
    if len(others) > 1:
        names = " or ".join(sorted(others.values()))
        raise NoConnection(f"several variables hold a DuckDB connection: say which with --connection {names}")
    for name in others.values():
        return Found(variables[name], name)
    return Found(duckdb.default_connection(), DEFAULT)


def _named(variables: Mapping[str, Any], name: str) -> Con:
    if name not in variables:
        known = sorted(key for key, value in variables.items() if key[:1] != "_" and is_connection(value))
        others = f"{', '.join(known)} would do" if known else f"make it with {name} = fleming_sql.connect()"
        raise NoConnection(f"--connection {name}: no variable of this notebook has that name; {others}")
    value = variables[name]
    if not is_connection(value):
        raise NoConnection(
            f"--connection {name}: the variable holds no DuckDB connection but {type(value).__name__}; make one with "
            "fleming_sql.connect() or duckdb.connect()"
        )
    con: Con = value
    return con


def is_connection(value: object) -> bool:
    """Return whether a value is a DuckDB connection, with a gateway or without."""
    return isinstance(value, duckdb.DuckDBPyConnection | Connection)


def _of_jupysql() -> Con | None:
    module = sys.modules.get("sql.connection")
    manager = getattr(module, "ConnectionManager", None)
    held = getattr(getattr(manager, "current", None), "_connection", None)
    return held if is_connection(held) else None
