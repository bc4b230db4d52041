"""What `fleming.config_problems` says, and which of it only tells that a price is not known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import duckdb

_PROBLEMS: Final = """
select
    p.table_name,
    p.row_key,
    p.column_name,
    p.problem,
    p.remedy,
    p.endpoint,
    u.problem is not null as is_warning
from config_problems as p
left join (
    select table_name, row_key, problem
    from __problems_of_unknown_prices()
    where len(stops) = 0
) as u on u.table_name = p.table_name and u.row_key = p.row_key and u.problem = p.problem
order by all
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of `fleming.config_problems`."""

    table_name: str
    row_key: str
    column_name: str | None
    problem: str
    remedy: str
    endpoint: str | None
    is_warning: bool
    """Whether everything works all the same: a cost is not known."""
    file_place: str | None = None
    """Where the file has the row that is being applied, such as `gateway.yaml:3`; None if it has none."""

    @property
    def place(self) -> str:
        """Return where it is, in words."""
        column = f", column {self.column_name}" if self.column_name else ""
        file = f"{self.file_place}: " if self.file_place else ""
        return f"{file}table {self.table_name}, row {self.row_key}{column}"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def read_problems(cursor: duckdb.DuckDBPyConnection) -> list[Problem]:
    """Return what is wrong with the configuration as it stands, also within a transaction.

    Args:
        cursor: Its current catalog is the store of an attached gateway.
    """
    return [Problem(*row) for row in cursor.execute(_PROBLEMS).fetchall()]
