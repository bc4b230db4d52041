"""Results as CSV, JSON, JSON lines, Markdown and Parquet, written as they come: never all of one in memory."""

from __future__ import annotations

import codecs
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Protocol
from uuid import uuid4

import click

from fleming_sql.cli.problems import CommandFailed
from fleming_sql.cli.statements import Rows, Statement
from fleming_sql.cli.values import json_of, text_of

FORMATS: Final = ("table", "csv", "json", "jsonl", "parquet", "markdown")
_ENDINGS: Final[Mapping[str, str]] = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".md": "markdown",
    ".txt": "table",
}


_QUOTED: Final = re.compile(r"[\",\r\n]|^\s|\s$")
"""Fields of CSV that need quotes."""


class _TextOut(Protocol):
    """What the writers need of a file."""

    def write(self, text: str, /) -> object: ...
    def writelines(self, lines: Iterable[str], /) -> None: ...
    def flush(self) -> object: ...


def kind_of(path: Path) -> str | None:
    """Return the format that the ending of a file's name stands for, None if it stands for none."""
    return _ENDINGS.get(path.suffix.lower())


def format_of(path: Path) -> str:
    """Return the format that the ending of a file's name stands for.

    Raises:
        UsageError: It stands for none.
    """
    kind = kind_of(path)
    if kind is None:
        raise click.UsageError(
            f"the ending of {path} tells no format: name one with --format, or use one of {', '.join(_ENDINGS)}"
        )
    return kind


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets its name when it is complete; until then, and after an error, what was there stays.

    Raises:
        OSError: It cannot be written.
    """
    if path.exists() and not path.is_file():  # a pipe or a device, which is written to and not replaced
        with path.open("wb") as out:
            yield out
        return
    target = path.resolve()
    unfinished = target.with_name(f".{target.name}.{uuid4().hex[:8]}.tmp")
    try:
        with unfinished.open("xb") as out:
            if target.exists():
                unfinished.chmod(stat.S_IMODE(target.stat().st_mode))  # before there is anything in it to read
            yield out
        os.replace(unfinished, target)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


@contextmanager
def stdout_bytes() -> Iterator[IO[bytes]]:
    """Give stdout for bytes."""
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


def stdout_is_read() -> bool:
    """Return whether somebody still reads stdout; what is no pipe always counts as read, as all does on Windows."""
    try:
        import select

        watch = select.poll()
        watch.register(sys.stdout.buffer, 0)  # what is wrong is told without being asked for
        return not watch.poll(0)
    except (ImportError, AttributeError, OSError, ValueError):  # a stdout that is no file of the system's
        return True


def write_text(kind: str, rows: Rows, out: IO[bytes]) -> int:
    """Write rows in a format of text, UTF-8 on every system, and return how many there were."""
    return _WRITERS[kind](rows, codecs.getwriter("utf-8")(out))


def write_parquet(statement: Statement, out: IO[bytes]) -> int:
    """Run a statement, write its rows as Parquet and return how many there were.

    Raises:
        CommandFailed: A column has a type that Parquet does not know.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    batches = statement.run_for_arrow()
    try:
        with pq.ParquetWriter(out, batches.schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                count += batch.num_rows
    except pa.ArrowNotImplementedError as error:
        raise CommandFailed(f"Parquet cannot hold this: {error}. Cast the column to another type", "Parquet") from error
    return count


def _write_csv(rows: Rows, out: _TextOut) -> int:
    out.write(f"{','.join(map(_csv_field, rows.columns))}\n")
    count = 0
    for chunk in rows.chunks():
        out.writelines(f"{','.join(map(_csv_field, row))}\n" for row in chunk)
        out.flush()
        count += len(chunk)
    return count


def _csv_field(value: object) -> str:
    """Return a field as DuckDB's own CSV has it: NULL is empty, and an empty text is two quotes."""
    text = "" if value is None else text_of(value)
    if value is None or (text and _QUOTED.search(text) is None):
        return text
    return '"' + text.replace('"', '""') + '"'


def _write_jsonl(rows: Rows, out: _TextOut) -> int:
    count = 0
    for chunk in rows.chunks():
        out.writelines(f"{_object(rows.columns, row)}\n" for row in chunk)
        out.flush()
        count += len(chunk)
    return count


def _write_json(rows: Rows, out: _TextOut) -> int:
    out.write("[")
    count = 0
    for chunk in rows.chunks():
        for row in chunk:
            out.write(f"{',' if count else ''}\n  {_object(rows.columns, row)}")
            count += 1
        out.flush()
    out.write("\n]\n" if count else "]\n")
    return count


def _write_markdown(rows: Rows, out: _TextOut) -> int:
    out.write(f"| {' | '.join(map(_markdown, rows.columns))} |\n|{'---|' * len(rows.columns)}\n")
    count = 0
    for chunk in rows.chunks():
        out.writelines(
            f"| {' | '.join('NULL' if value is None else _markdown(text_of(value)) for value in row)} |\n"
            for row in chunk
        )
        out.flush()
        count += len(chunk)
    return count


def _markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", "").replace("\n", "<br>")


def _object(columns: tuple[str, ...], row: tuple[object, ...]) -> str:
    return json_of(dict(zip(columns, row, strict=True)))


_WRITERS: Final[Mapping[str, Callable[[Rows, _TextOut], int]]] = {
    "csv": _write_csv,
    "json": _write_json,
    "jsonl": _write_jsonl,
    "markdown": _write_markdown,
}
