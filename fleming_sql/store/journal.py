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

    It is two files, written in turn: while the records of one go into the table, the other takes new ones, and then
    the first is emptied. So it holds what is not in the table yet and little more, and a store opens at once.

    Args:
        folder: Made with the first record.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: tuple[Path, ...] = ()
        self._files: tuple[int, ...] = ()
        self._sizes = [0, 0]
        self._current = 0
        self._torn = False

    def append(self, record: CallRecord) -> None:
        """Write a record; it then outlives this process.

        Raises:
            OSError: It could not be written.
        """
        line = _line(record)
        if self._torn:
            line = b"\n" + line
        if not self._files:
            self._open()
        self._torn = True
        written = os.write(self._files[self._current], line)
        self._sizes[self._current] += written
        if written < len(line):
            raise OSError("the record was written in part only: the disk is full")
        self._torn = False

    def sync(self) -> None:
        """Return when what was written outlives the machine's power.

        Raises:
            OSError: The disk failed.
        """
        for file, size in zip(self._files, self._sizes, strict=False):
            if size:
                os.fdatasync(file) if hasattr(os, "fdatasync") else os.fsync(file)

    def turn(self) -> None:
        """Write what comes next into the other file, unless that still holds what the table has not taken."""
        other = 1 - self._current
        if not self._sizes[other]:
            self._current, self._torn = other, False

    def forget(self) -> None:
        """Empty the file that is not written: all that was in it is in the table."""
        other = 1 - self._current
        if self._sizes[other]:
            os.ftruncate(self._files[other], 0)
            self._sizes[other] = 0

    def remove(self) -> None:
        """End the journal: all that was written is in the table."""
        for file, path in zip(self._files, self._paths, strict=True):
            os.close(file)
            path.unlink(missing_ok=True)
        self._files = self._paths = ()
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def left_behind(self) -> list[Path]:
        """Return the files of processes that did not come to their end, the oldest first."""
        return sorted(self._folder.glob(f"*{_SUFFIX}")) if self._folder.is_dir() else []

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        taken = [path.stem for path in self._folder.iterdir()]
        last = max((int(name) for name in taken if name.isascii() and name.isdecimal()), default=0)
        self._paths = tuple(self._folder / f"{last + number:08d}{_SUFFIX}" for number in (1, 2))
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._files = tuple(os.open(path, flags, 0o600) for path in self._paths)
        _sync_folder(self._folder)


def _sync_folder(folder: Path) -> None:
    """See to it that the names of new files outlive the machine's power too; Windows has no such call."""
    if os.name == "posix":
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
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
