"""`fleming init`: makes a store, and an endpoint in it if asked to."""

from __future__ import annotations

import difflib
import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fleming_sql.cli.options import DEFAULT_GATEWAY, MEMORY, Common, common_options, examples
from fleming_sql.cli.problems import CommandFailed

if TYPE_CHECKING:
    from fleming_sql import Connection

_SIMULATED: Final = "simulated"


@dataclass(frozen=True, slots=True)
class _NewEndpoint:
    """An endpoint to add, with the one model behind it."""

    name: str
    provider: str
    model: str | None
    base_url: str | None
    variable: str | None
    """The environment variable that holds the key; None for none."""


@click.command(
    "init",
    epilog=examples(
        "fleming init --example",
        "fleming init --provider openai --model gpt-4.1-mini --credential-env OPENAI_API_KEY",
        "fleming init --endpoint local --provider openai --model llama3.2 --base-url http://127.0.0.1:11434/v1",
        "fleming init /srv/ai/gateway.duckdb",
    ),
)
@click.argument("path", required=False)
@click.option("--example", is_flag=True, help="Add an endpoint whose answers are simulated: no key, no network.")
@click.option("--provider", metavar="NAME", help="Add an endpoint with a model of this provider.")
@click.option("--model", metavar="NAME", help="The model, as its provider names it.")
@click.option("--base-url", metavar="URL", help="Where the model is, if not at the provider's own address.")
@click.option("--credential-env", metavar="VARIABLE", help="The environment variable that holds the key.")
@click.option("--endpoint", default="chat", show_default=True, metavar="NAME", help="The name of the new endpoint.")
@common_options
def init(
    common: Common,
    path: str | None,
    example: bool,
    provider: str | None,
    model: str | None,
    base_url: str | None,
    credential_env: str | None,
    endpoint: str,
) -> None:
    """Make a gateway store.

    PATH is the store's file, fleming.duckdb in this folder unless --gateway, --database or FLEMING_GATEWAY say
    otherwise. What exists stays as it is, so that doing it again does no harm. Keys are never stored: the store names
    the variable that holds one.
    """
    common = replace(common, gateway=path or common.new_store)
    if common.store == MEMORY:
        raise click.UsageError("a store in memory is gone when the command ends: name a file")
    wanted = _wanted(endpoint, example, provider, model, base_url, credential_env)
    is_new = not Path(common.store).exists()
    with common.connect(may_create=True) as con:
        added = wanted is not None and _add(con, wanted)
        names = [name for (name,) in con.execute("select name from fleming.endpoints order by name").fetchall()]
        problems = _problems(con, wanted)
    if common.as_json:
        common.output.json({"gateway": common.store, "created": is_new, "endpoint_added": added, "endpoints": names})
    else:
        _tell(common, wanted, names, is_new=is_new, added=added)
    for problem in problems:
        common.output.note(f"Warning: {problem}", "yellow")
    if wanted and wanted.variable and not os.environ.get(wanted.variable):
        common.output.note(f"Warning: {wanted.variable} is not set in this shell; calls need it", "yellow")


def _wanted(
    endpoint: str,
    example: bool,
    provider: str | None,
    model: str | None,
    base_url: str | None,
    variable: str | None,
) -> _NewEndpoint | None:
    if provider is None:
        for option, value in (("--model", model), ("--base-url", base_url), ("--credential-env", variable)):
            if value is not None:
                raise click.UsageError(f"{option} describes a model of a provider: name that with --provider")
        return _NewEndpoint(endpoint, _SIMULATED, "demo", None, None) if example else None
    if example:
        raise click.UsageError(
            "--example adds an endpoint with simulated answers, --provider one of a provider: give one"
        )
    if model is None and provider != _SIMULATED:
        raise click.UsageError(f"which model of {provider}? Name it with --model")
    return _NewEndpoint(endpoint, provider, model, base_url, variable)


def _add(con: Connection, wanted: _NewEndpoint) -> bool:
    """Add the endpoint, all of it or nothing; return whether it was not there before."""
    if con.execute("select 1 from fleming.endpoints where name = ?", [wanted.name]).fetchall():
        return False
    _check_provider(con, wanted.provider)
    con.execute("begin")
    try:
        con.execute("insert into fleming.endpoints (name) values (?)", [wanted.name])
        con.execute(
            "insert into fleming.served_entities (endpoint, name, provider, model, base_url, credential) "
            "values (?, ?, ?, ?, ?, ?)",
            [
                wanted.name,
                wanted.model or wanted.provider,
                wanted.provider,
                wanted.model or "",
                wanted.base_url,
                _credential(con, wanted),
            ],
        )
        con.execute("commit")
    except BaseException:
        con.execute("rollback")
        raise
    return True


def _check_provider(con: Connection, provider: str) -> None:
    known = [name for (name,) in con.execute("select name from fleming.providers order by name").fetchall()]
    if provider in known:
        return
    near = difflib.get_close_matches(provider, known, 1)
    meant = f' Did you mean "{near[0]}"?' if near else ""
    raise CommandFailed(
        f'there is no provider "{provider}".{meant} There are: {", ".join(known)}. A server that speaks the wire '
        "format of OpenAI is provider openai with its own --base-url",
        "UnknownProvider",
    )


def _credential(con: Connection, wanted: _NewEndpoint) -> str | None:
    """Return the name of the credential for the variable, which is added if there is none."""
    if wanted.variable is None:
        return None
    rows = con.execute(
        "select name from fleming.credentials where source = 'env' and reference = ? order by name", [wanted.variable]
    ).fetchall()
    if rows:
        return str(rows[0][0])
    taken = con.execute("select 1 from fleming.credentials where name = ?", [wanted.provider]).fetchall()
    name = f"{wanted.provider}/{wanted.name}" if taken else wanted.provider
    con.execute(
        "insert into fleming.credentials (name, source, reference) values (?, 'env', ?)", [name, wanted.variable]
    )
    return name


def _problems(con: Connection, wanted: _NewEndpoint | None) -> list[str]:
    """Return what does not fit together in the rows of the endpoint."""
    if wanted is None:
        return []
    rows = con.execute(
        "select problem, remedy from fleming.config_problems where endpoint = ?", [wanted.name]
    ).fetchall()
    return [f"{problem}: {remedy}" for problem, remedy in rows]


def _tell(common: Common, wanted: _NewEndpoint | None, names: list[str], *, is_new: bool, added: bool) -> None:
    output = common.output
    output.print(f"Made the gateway store {common.store}." if is_new else f"The gateway store {common.store} exists.")
    if wanted is not None and added:
        key = f", with the key in {wanted.variable}" if wanted.variable else ""
        model = "simulated answers" if wanted.provider == _SIMULATED else f"{wanted.model} of {wanted.provider}{key}"
        output.print(f"Added the endpoint {wanted.name}: {model}.")
    elif wanted is not None:
        output.print(f"The endpoint {wanted.name} exists, and was left as it is.")
    at = "" if common.store == DEFAULT_GATEWAY else f" --gateway {shlex.quote(common.store)}"
    output.print("\nNext:")
    if names:
        name = wanted.name if wanted is not None else names[0]
        output.print(f"  fleming sql{at} \"select ai_query('{name}', 'Hello')\"")
        output.print(f"  fleming usage{at}")
    else:
        output.print(f"  fleming init{at} --example        an endpoint with simulated answers")
        output.print(f"  fleming init{at} --provider openai --model gpt-4.1-mini --credential-env OPENAI_API_KEY")
