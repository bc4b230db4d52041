"""`fleming doctor`: what a bug report needs to say, and what stands in the way on this machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from fleming_sql.cli.options import MEMORY, Common, common_options, examples

if TYPE_CHECKING:
    import duckdb

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "bedrock": ("botocore",),
        "dbt": ("dbt-core", "dbt-duckdb"),
        "delta": ("deltalake",),
        "google": ("google-auth",),
        "keyring": ("keyring",),
        "notebook": ("altair", "ipywidgets", "jupysql", "marimo"),
        "otel": ("opentelemetry-api",),
        "presidio": ("presidio-analyzer",),
        "tokens": ("bpe-openai",),
    }
)
"""The packages of each extra, as pyproject.toml has them; without those that only make benchmarks."""
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_LOGIN: Final = re.compile(r"^([a-z][a-z0-9+.-]*://)?.*@", re.IGNORECASE)
"""What stands before the host of an address; proxies are often written without a scheme."""
_FEW_FILES: Final = 1024
"""One connection to a provider is one open file, and hundreds of calls are under way at once."""
_LITTLE_SPACE: Final = 1 << 30


class _Fact(NamedTuple):
    """One line of the report."""

    section: str
    name: str
    value: str
    state: str = "ok"
    """`ok`, `note` for what may explain something, or `problem`."""


@click.command(
    "doctor",
    epilog=examples("fleming doctor", "fleming doctor --gateway warehouse.fleming.duckdb", "fleming doctor --json"),
)
@common_options
def doctor(common: Common) -> None:
    """Check the installation and its surroundings.

    Shows versions, extras, the store and the machine, and calls a simulated model to see that ai_query works. It holds
    no secrets, and paths are shortened, so that it can be pasted into a bug report. The exit code is 1 if there are
    problems.
    """
    from fleming_sql.cli.problems import CommandFailed

    facts = [fact for section, look in _LOOKS for fact in _looked(common, section, look)]
    if common.as_json:
        common.output.json([fact._asdict() for fact in facts])
    else:
        _show(common, facts)
    problems = [f"{fact.name}: {fact.value}" for fact in facts if fact.state == "problem"]
    if problems:
        raise CommandFailed("; ".join(problems), "ProblemsFound")


def _looked(common: Common, section: str, look: Callable[[Common], Iterator[_Fact]]) -> Iterator[_Fact]:
    """Yield what a look finds. One that fails is a fact of its own: the others matter then more than ever."""
    try:
        yield from look(common)
    except Exception as error:  # noqa: BLE001  whatever stands in the way on this machine is what is looked for
        yield _Fact(section, "state", f"{type(error).__name__}: {_without_home(str(error))}", "problem")


def _show(common: Common, facts: list[_Fact]) -> None:
    from rich.text import Text

    section = ""
    for fact in facts:
        if fact.section != section:
            section = fact.section
            common.output.out.print(Text(section, "bold"))
        text = Text(f"  {fact.name:<18}")
        text.append(fact.value, {"note": "yellow", "problem": "red"}.get(fact.state, ""))
        common.output.out.print(text, soft_wrap=True)


def _versions(common: Common) -> Iterator[_Fact]:
    import duckdb

    from fleming_sql import __version__

    yield _Fact("versions", "fleming-sql", __version__)
    yield _Fact("versions", "python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield _Fact("versions", "duckdb", duckdb.__version__)
    for package in ("pyarrow", "aiohttp", "httpx", "sqlglot", "genai-prices"):
        yield _Fact("versions", package, _version(package) or "missing", "ok" if _version(package) else "problem")
    yield _Fact("versions", "platform", f"{platform.system()} {platform.release()} {platform.machine()}")


def _extras(common: Common) -> Iterator[_Fact]:
    for extra, packages in EXTRAS.items():
        found = {package: _version(package) for package in packages}
        if all(found.values()):
            yield _Fact("extras", extra, ", ".join(f"{package} {version}" for package, version in found.items()))
        else:
            missing = ", ".join(package for package, version in found.items() if version is None)
            yield _Fact("extras", extra, f"not installed ({missing}): pip install 'fleming-sql[{extra}]'")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _machine(common: Common) -> Iterator[_Fact]:
    uvloop = _version("uvloop")
    yield _Fact("machine", "event loop", f"uvloop {uvloop}" if uvloop else "asyncio")
    yield _Fact("machine", "processors", str(os.cpu_count()))
    yield from _open_files()
    now = datetime.now().astimezone()
    yield _Fact("machine", "time", f"{now.isoformat(timespec='seconds')} ({now.tzname()}); `fleming check` compares it")
    for name in _PROXIES:
        value = os.environ.get(name) or os.environ.get(name.upper())
        if value:
            yield _Fact("machine", name, value if name == "no_proxy" else _without_login(value), "note")


def _open_files() -> Iterator[_Fact]:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"{_limit(soft)} (up to {_limit(hard)})"
    if 0 <= soft < _FEW_FILES:
        yield _Fact("machine", "open files", f"{told}: few for many calls at once, raise it with ulimit -n", "note")
    else:
        yield _Fact("machine", "open files", told)


def _limit(number: int) -> str:
    return "no limit" if number < 0 else str(number)


def _without_login(address: str) -> str:
    return _LOGIN.sub(r"\1", address)


def _store(common: Common) -> Iterator[_Fact]:
    import duckdb

    from fleming_sql.errors import FlemingError

    path = Path(common.store)
    yield _Fact("store", "path", _short(path))
    if common.store == MEMORY or "://" in common.store:
        return
    folder = path.resolve().parent
    if folder.exists():
        free = shutil.disk_usage(folder).free
        told = f"{free / 1e9:.1f} GB free, {_file_system(folder)}"
        yield _Fact("store", "disk", told, "problem" if free < _LITTLE_SPACE else "ok")
    if not path.exists():
        yield _Fact("store", "state", "there is none: make one with `fleming init`", "note")
        return
    # Before it is opened: opening works into the tables what a killed process has left behind.
    yield from _journal(common.store)
    yield _Fact("store", "size", f"{path.stat().st_size / 1e6:.1f} MB")
    try:
        with common.connect() as con:
            yield from _inside(con.duckdb)
    except (FlemingError, duckdb.Error) as error:  # DuckDB's is of the database
        yield _Fact("store", "state", _without_home(str(error)), "problem")


def _journal(store: str) -> Iterator[_Fact]:
    from fleming_sql.store.journal import journal_folder

    folder = journal_folder(store)
    files = [file for file in folder.glob("*") if file.is_file()] if folder.exists() else []
    size = sum(file.stat().st_size for file in files)
    yield _Fact("store", "journal", f"{len(files)} files, {size / 1e6:.1f} MB" if files else "empty")


def _inside(con: duckdb.DuckDBPyConnection) -> Iterator[_Fact]:
    migrations = con.execute("select count(*), max(name) from fleming.migrations").fetchall()[0]
    yield _Fact("store", "schema", f"{migrations[0]} migrations, the last is {migrations[1]}")
    tags = con.execute("select tags from duckdb_databases() where database_name = 'fleming'").fetchall()
    yield _Fact("store", "format", str(dict(tags[0][0]).get("storage_version", "unknown")) if tags else "unknown")
    counted = con.execute(
        "select (select count(*) from fleming.endpoints), (select count(*) from fleming.serving.calls), "
        "(select count(*) from fleming.serving.recoveries), (select count(*) from fleming.config_problems)"
    ).fetchall()[0]
    for name, count in zip(("endpoints", "calls", "recoveries", "config problems"), counted, strict=True):
        yield _Fact("store", name, str(count))


def _file_system(folder: Path) -> str:
    """Return the kind of file system that a folder is on, where the system says so."""
    try:
        mounts = Path("/proc/mounts").read_text("utf-8").splitlines()
    except OSError:
        return "file system not known"
    points = {fields[1].replace("\\040", " "): fields[2] for fields in map(str.split, mounts) if len(fields) > 2}
    on = max((point for point in points if folder.is_relative_to(point)), key=len, default=None)
    return points[on] if on is not None else "file system not known"


def _short(path: Path) -> str:
    text, home = str(path), _home()
    return f"~{text.removeprefix(home)}" if home and text.startswith(home + os.sep) else text


def _without_home(text: str) -> str:
    home = _home()
    return text.replace(home, "~") if home else text


def _home() -> str:
    """Return the user's folder; "" where the system knows none, as for a container's nameless user."""
    try:
        return str(Path.home())
    except RuntimeError:
        return ""


def _self_test(common: Common) -> Iterator[_Fact]:
    """Ask the simulated model, on a database and a store in memory."""
    import duckdb

    import fleming_sql

    began = time.monotonic()
    try:
        with fleming_sql.connect() as con:
            con.execute("insert into fleming.endpoints (name) values ('self')")
            con.execute(
                "insert into fleming.served_entities (endpoint, name, provider) values ('self', 'a', 'simulated')"
            )
            answer = con.execute("select ai_query('self', 'Hello')").fetchall()[0][0]
            logged = con.execute("select count(*) from fleming.serving.inference").fetchall()[0][0]
    except (fleming_sql.FlemingError, duckdb.Error) as error:
        yield _Fact("self-test", "ai_query", str(error), "problem")
        return
    took_ms = (time.monotonic() - began) * 1000
    if not answer or logged != 1:
        yield _Fact("self-test", "ai_query", f"answered {answer!r} and logged {logged} calls", "problem")
    else:
        yield _Fact("self-test", "ai_query", f"works ({took_ms:.0f} ms, with opening a store in memory)")


def _program(common: Common) -> Iterator[_Fact]:
    yield _Fact("program", "executable", _short(Path(sys.executable)))
    yield _Fact("program", "package", _short(Path(__file__).parents[1]))
    for name in ("FLEMING_GATEWAY", "FLEMING_USER"):
        if name in os.environ:
            yield _Fact("program", name, _short(Path(os.environ[name])))


_LOOKS: Final[tuple[tuple[str, Callable[[Common], Iterator[_Fact]]], ...]] = (
    ("versions", _versions),
    ("extras", _extras),
    ("program", _program),
    ("machine", _machine),
    ("store", _store),
    ("self-test", _self_test),
)
