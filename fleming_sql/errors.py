"""The error tree. A class says who must act; the text says what to change.

    FlemingError
    ├── ArgumentError          the statement: a wrong argument, type or option of a function
    ├── ConfigError            a row of a config table is wrong
    │   └── CredentialError    a credential is missing, empty or cannot be read
    ├── StoreError             the gateway store cannot be opened or written
    │   ├── StoreLocked        another process has it open
    │   ├── StoreDamaged       the file is not a readable DuckDB database
    │   └── StoreTooNew        written by a newer fleming-sql or DuckDB
    ├── ExportError            the log cannot be exported to, or read from, its Delta tables
    ├── GatewayClosed          use after close, or in a process forked after connect
    ├── CallError              one call to a model failed; carries the HTTP status and the code
    └── CallCancelled          the statement was interrupted before the call had an answer

DuckDB loses the type of a Python exception that leaves a function, so each text stands by itself:
condition name, endpoint, request id, HTTP status and what to change.
"""

from __future__ import annotations


class FlemingError(Exception):
    """Base of all errors raised by fleming-sql."""


class ArgumentError(FlemingError):
    """An argument of a SQL function is wrong. The statement must change; nothing was sent.

    Args:
        condition: The error condition, with Databricks' name where one exists.
        message: What was found, and what would be accepted.
    """

    def __init__(self, condition: str, message: str) -> None:
        super().__init__(f"[{condition}] {message}")
        self.condition = condition


class ConfigError(FlemingError):
    """A row of a config table is wrong; the text is that of its row in `fleming.config_problems`."""


class CredentialError(ConfigError):
    """A credential is missing, empty or cannot be read. The text never holds its value."""


class StoreError(FlemingError):
    """The gateway store cannot be opened, upgraded or written."""


class StoreLocked(StoreError):
    """Another process, or another DuckDB instance of this one, has the store open."""


class StoreDamaged(StoreError):
    """The store's file is not a readable DuckDB database."""


class StoreTooNew(StoreError):
    """The store was written by a newer fleming-sql or a newer DuckDB."""


class ExportError(FlemingError):
    """The log cannot be exported to its Delta tables, or read from them; calls are not touched by it."""


class GatewayClosed(FlemingError):
    """The connection was closed, or the process was forked after it was opened."""


class CallError(FlemingError):
    """One call to a model failed.

    Args:
        condition: The error condition, with Databricks' name where one exists.
        message: What happened and what to change, without secrets.
        status: The HTTP status that stands for the failure.
        code: The short error code of the REST interface, such as `REQUEST_LIMIT_EXCEEDED`.
    """

    def __init__(self, condition: str, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.condition = condition
        self.message = message
        self.status = status
        self.code = code


class CallCancelled(FlemingError):
    """The statement was interrupted or its connection closed before the call had an answer."""
