"""The configuration as one file: export it, compare a file with it, apply the difference in one transaction."""

from fleming_sql.configuration.diff import Diff, TableDiff, compare
from fleming_sql.configuration.errors import ConfigFileError
from fleming_sql.configuration.problems import Problem, read_problems
from fleming_sql.configuration.schema import Column, Schema, Table, read_schema
from fleming_sql.configuration.store import ConfigStore, FileFormat, Plan

__all__ = [
    "Column",
    "ConfigFileError",
    "ConfigStore",
    "Diff",
    "FileFormat",
    "Plan",
    "Problem",
    "Schema",
    "Table",
    "TableDiff",
    "compare",
    "read_problems",
    "read_schema",
]
