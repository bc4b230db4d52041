"""The journal: an append-only file beside the store that holds each record of a call from the moment it ended.

A table takes records in batches; what a killed process had not put into it yet is read from here when the store is
opened again. A line is a record: the CRC-32 of its JSON as eight hexadecimal digits, a space, the JSON. A line that was
torn by a crash, or damaged since, is told by its checksum, and the next one is found by the line's end.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from fleming_sql.store.call_rows import remnant
from fleming_sql.types import Attempt, CallRecord, GuardrailResult

SEGMENT_BYTES: Final = 8 * 1024 * 1024
"""A file that is longer is followed by a new one, so that it can go once its records are in the table."""
_SUFFIX: Final = ".ndjson"
_DAMAGED: Final = ".damaged"
_CRC: Final = 8
_CALL_FIELDS: Final = frozenset(field.name for field in fields(CallRecord))


def journal_folder(store: str) -> Path:
    """Return the folder of the journal of the store in a file."""
    path = Path(store).resolve()
    return path.with_name(f"{path.name}.journal")


class Journal:
    """Writes the journal of a store that is open. One thread at a time; another may `sync`.

    Args:
        folder: Made with the first record.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: int | None = None
        self._paths: list[Path] = []
        """The files in use, the one that is written last."""
        self._written = 0
        self._torn = False

    def append(self, record: CallRecord) -> None:
        """Write a record; it then outlives this process.

        Raises:
            OSError: It could not be written.
        """
        line = _line(record)
        if self._torn:
            line = b"\n" + line
        if self._file is None:
            self._file = self._open()
        self._torn = True
        if os.write(self._file, line) < len(line):
            raise OSError("the record was written in part only: the disk is full")
        self._torn = False
        self._written += len(line)

    def sync(self) -> None:
        """Return when what was written outlives the machine's power.

        Raises:
            OSError: The disk failed.
        """
        if self._file is not None:
            os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)

    def turn(self) -> list[Path]:
        """Begin a new file if this one is long; return the files that came before it."""
        if self._written >= SEGMENT_BYTES:
            self._close_file()
        return self._paths[:-1] if self._file is not None else list(self._paths)

    def drop(self, paths: list[Path]) -> None:
        """Remove files whose records are all in the table."""
        for path in paths:
            path.unlink(missing_ok=True)
            self._paths.remove(path)

    def remove(self) -> None:
        """End the journal: all that was written is in the table."""
        self._close_file()
        self.drop(list(self._paths))
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def left_behind(self) -> list[Path]:
        """Return the files of processes that did not come to their end, the oldest first."""
        return sorted(self._folder.glob(f"*{_SUFFIX}")) if self._folder.is_dir() else []

    def _open(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        last = max((int(path.stem) for path in self._folder.iterdir() if path.stem.isdigit()), default=0)
        path = self._folder / f"{last + 1:08d}{_SUFFIX}"
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
        self._paths.append(path)
        return file

    def _close_file(self) -> None:
        file, self._file = self._file, None
        self._written, self._torn = 0, False
        if file is not None:
            os.close(file)


def read_journal(path: Path) -> Iterator[CallRecord | None]:
    """Read a file of the journal: its records in their order, None for each that is damaged.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        for line in file:
            if line != b"\n":
                yield _read(line)


def set_aside(path: Path) -> None:
    """Keep a file that has damaged records out of the way of further starts."""
    path.replace(path.with_suffix(_DAMAGED))


def _line(record: CallRecord) -> bytes:
    try:
        text = orjson.dumps(record)
    except TypeError:  # lone surrogates, numbers beyond 64 bits: the table does not take them either
        text = orjson.dumps(remnant(record))
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _read(line: bytes) -> CallRecord | None:
    text = line[_CRC + 1 :].rstrip(b"\n")
    if line[:_CRC] != b"%08x" % zlib.crc32(text):
        return None
    try:
        return _record(orjson.loads(text))
    except (ValueError, TypeError, KeyError):
        return None


def _record(values: dict[str, Any]) -> CallRecord:
    """Return the record, less what another version wrote that this one does not know."""
    known = {name: value for name, value in values.items() if name in _CALL_FIELDS}
    known["request_time"] = datetime.fromisoformat(known["request_time"])
    known["logging_error_codes"] = tuple(known["logging_error_codes"])
    known["attempts"] = tuple(_attempt(attempt) for attempt in known["attempts"])
    known["guardrail_results"] = tuple(GuardrailResult(**result) for result in known["guardrail_results"])
    return CallRecord(**known)


def _attempt(values: Mapping[str, Any]) -> Attempt:
    return Attempt(**{**values, "started_at": datetime.fromisoformat(values["started_at"])})
