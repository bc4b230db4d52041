"""`fleming check`: what is wrong with the configuration, and with what it points at."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fleming_sql.cli.options import MEMORY, Common, common_options, examples

if TYPE_CHECKING:
    import duckdb

    from fleming_sql.configuration.problems import Problem
    from fleming_sql.configuration.reachability import AddressCheck, CredentialCheck

_CLOCK_OFF_S: Final = 60.0
"""Signed requests are refused from some minutes on."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """One thing that was looked at."""

    kind: str
    state: str
    """`ok`, `warning` or `problem`."""
    what: str
    told: str

    def as_json(self) -> dict[str, str]:
        return {"kind": self.kind, "state": self.state, "what": self.what, "told": self.told}


@click.command(
    "check",
    epilog=examples("fleming check", "fleming check --offline", "fleming check --json | jq .problems"),
)
@click.option("--offline", is_flag=True, help="Do not ask whether the providers can be reached.")
@common_options
def check(common: Common, offline: bool) -> None:
    """Find what is wrong with the configuration.

    Looks at the configuration tables, at the secrets that credentials point to (they are read, never shown), at the
    addresses of the providers (one request to each without a key; any answer counts), and whether the store can be
    written. The exit code is 1 if there are problems; warnings do not count.
    """
    from fleming_sql.cli.problems import CommandFailed

    with common.connect() as con:
        cursor = con.duckdb.cursor()
        cursor.execute("use fleming.main")
        findings = [*_store(common.store, cursor), *_configuration(cursor)]
        findings += asyncio.run(_surroundings(cursor, offline=offline))
    problems = [finding for finding in findings if finding.state == "problem"]
    if common.as_json:
        common.output.json(_report(findings, ok=not problems))
    else:
        styles = {"ok": "green", "warning": "yellow", "problem": "red"}
        _show(common, findings, styles)
    if problems:
        count = len(problems)
        raise CommandFailed(f"{count} problem{'s' if count > 1 else ''} found", "ProblemsFound")


def _show(common: Common, findings: Sequence[_Finding], styles: dict[str, str]) -> None:
    from rich.text import Text

    for finding in findings:
        text = Text()
        text.append(f"{finding.state:<8}", styles[finding.state])
        text.append(f"{finding.kind:<14}{finding.what}")
        text.append(f": {finding.told}" if finding.told else "")
        common.output.out.print(text, soft_wrap=True)


def _report(findings: Sequence[_Finding], *, ok: bool) -> dict[str, Any]:
    by_state = {
        f"{state}s": [finding.as_json() for finding in findings if finding.state == state]
        for state in ("problem", "warning")
    }
    return {"ok": ok, **by_state, "checked": [finding.as_json() for finding in findings]}


def _store(path: str, cursor: duckdb.DuckDBPyConnection) -> Iterator[_Finding]:
    import duckdb

    try:
        cursor.execute("begin")
        cursor.execute("insert into settings (name) values (uuid()::varchar)")
        cursor.execute("rollback")
    except duckdb.Error as error:
        yield _Finding("store", "problem", path, f"it cannot be written: {error}")
        return
    folder = Path(path).resolve().parent
    if path != MEMORY and not os.access(folder, os.W_OK):
        told = f"its folder {folder} cannot be written, and the journal of calls is kept there: allow it"
        yield _Finding("store", "problem", path, told)
        return
    yield _Finding("store", "ok", path, "it can be written")


def _configuration(cursor: duckdb.DuckDBPyConnection) -> Iterator[_Finding]:
    from fleming_sql.configuration.problems import read_problems

    problems = read_problems(cursor)
    for problem in problems:
        yield _of_problem(problem)
    if not problems:
        yield _Finding("configuration", "ok", "all tables", "they fit together")


def _of_problem(problem: Problem) -> _Finding:
    state = "warning" if problem.is_warning else "problem"
    return _Finding("configuration", state, problem.place, f"{problem.problem}: {problem.remedy}")


async def _surroundings(cursor: duckdb.DuckDBPyConnection, *, offline: bool) -> list[_Finding]:
    from fleming_sql.configuration import reachability
    from fleming_sql.transport.pooled import PooledTransport

    served = reachability.read_served(cursor)
    entities = [entity for _, entity in served]
    credentials = reachability.read_credentials(cursor)
    found = [_of_credential(one) for one in await reachability.check_credentials(credentials, entities)]
    if offline:
        return found
    transport = PooledTransport()
    try:
        addresses = await reachability.check_addresses(served, transport)
    finally:
        await transport.aclose()
    return [*found, *(finding for address in addresses for finding in _of_address(address))]


def _of_credential(checked: CredentialCheck) -> _Finding:
    users = ", ".join(checked.used_by)
    if checked.error is None:
        used = f"used by {users}" if users else "no served entity uses it"
        return _Finding("credential", "ok", checked.name, f"found ({checked.source}), {used}")
    if not users:
        return _Finding("credential", "warning", checked.name, f"{checked.error}; no served entity uses it")
    return _Finding("credential", "problem", checked.name, f"{checked.error}; {users} needs it")


def _of_address(checked: AddressCheck) -> Iterator[_Finding]:
    users = ", ".join(checked.used_by)
    if checked.error is not None:
        told = f"{checked.error}; {users} is served there: change base_url, start the server or open the way to it"
        yield _Finding("provider", "problem", checked.address, told)
        return
    told = f"answers (HTTP status {checked.status}, {checked.took_ms:.0f} ms), serves {users}"
    yield _Finding("provider", "ok", checked.address, told)
    ahead_s = checked.clock_ahead_s or 0.0
    if abs(ahead_s) > _CLOCK_OFF_S:
        way = "ahead of" if ahead_s > 0 else "behind"
        told = (
            f"this machine's is {abs(ahead_s):.0f} s {way} that of {checked.address}: set it, or signed requests fail"
        )
        yield _Finding("clock", "warning", "time", told)
