"""Names and texts put into SQL text, for the statements that take no parameters: nowhere else is it done."""

from __future__ import annotations


def quote_identifier(name: str) -> str:
    """Return `name` as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return `text` as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
