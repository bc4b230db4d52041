"""The background thread that all calls of a gateway run on."""

from fleming_sql.engine.engine import Engine, Run

__all__ = ["Engine", "Run"]
