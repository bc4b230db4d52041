"""The blocks of a document and what becomes of each: run, written to a file, or checked. Each language has its rule."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import yaml
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import fleming_sql
from fleming_sql.configuration import ConfigStore
from fleming_sql.dbt import read_config

ROOT: Final = Path(__file__).resolve().parent.parent
_FENCE: Final = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
RUN: Final = frozenset({"python", "sql", "sh", "ipython"})
_PYPROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
_COMMAND_SECONDS: Final = 100


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    text: str
    line: int
    """Of its first line of text."""
    expected: str | None = None
    """The text block directly below, which is the output."""
    title: str | None = None
    """The name of the file that it is."""


class WrongBlock(AssertionError):
    """A block is not what its language says."""


def blocks_of(document: str) -> Iterator[Block]:
    """Yield the blocks of a document; a text block directly below one that runs is its output and no block."""
    fences = [*_FENCE.finditer(document), None]
    is_output = False
    for fence, following in pairwise(fences):
        if fence is None or is_output:
            is_output = False
            continue
        language, title, text = fence[1], fence[2], fence[3]
        gap = document[fence.end() : following.start()].strip() if following else "end"
        is_output = language in RUN and following is not None and following[1] == "text" and not gap
        yield Block(
            language,
            text,
            document.count("\n", 0, fence.start()) + 2,
            following[3] if is_output and following else None,
            title,
        )


class Reader:
    """Does with the blocks of one document what its reader would, in the current folder.

    Args:
        file: The document.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.namespace: dict[str, Any] = {"__name__": "document"}
        self._shell: InteractiveShell | None = None

    def close(self) -> None:
        """Close what the blocks have opened."""
        for opened in list(self.namespace.values()):
            if isinstance(opened, fleming_sql.Connection):
                opened.close()

    def follow(self, block: Block) -> str:
        """Run or check a block and return what it shows.

        Raises:
            WrongBlock: It is not what its language says, or there is no rule for the language.
        """
        if block.title is not None:
            write(block)
        rule = _RULES.get(block.language)
        if rule is None:
            raise WrongBlock(f"{self._file.name}:{block.line}: no rule for blocks of the language {block.language!r}")
        if block.title is not None and block.language in RUN:
            return ""  # a file, that a later block uses
        return rule(self, block)

    def python(self, block: Block) -> str:
        """Run it, and return what it printed."""
        printed = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.text, str(self._file), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, self.namespace)  # noqa: S102  the repository's own documents
        return printed.getvalue()

    def sql(self, block: Block) -> str:
        """Run it on the connection `con`, and return its last table."""
        relation = self.namespace["con"].sql(block.text)
        return "" if relation is None else str(relation)

    def sh(self, block: Block) -> str:
        """Run the commands that can be run here, check the others, and return what was written."""
        lines = [line for line in _joined(block.text) if not _is_checked_only(line)]
        if not lines:
            return ""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],  # noqa: S607  the one of the path, as for readers
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=_environment(),
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise WrongBlock(f"{self._file.name}:{block.line}: {done.stdout}{done.stderr}")
        return done.stdout

    def ipython(self, block: Block) -> str:
        """Run it as a cell of a notebook, and return what stands below the cell."""
        if self._shell is None:
            settings = Config({"HistoryManager": {"enabled": False}, "InteractiveShell": {"colors": "nocolor"}})
            self._shell = InteractiveShell(config=settings, user_ns=self.namespace)  # type: ignore[no-untyped-call]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            self._shell.run_cell(block.text).raise_error()  # type: ignore[no-untyped-call]
        return re.sub(r"^Out\[\d+\]: *\n", "", printed.getvalue())

    def yaml(self, block: Block) -> str:
        """See that it is a configuration of the gateway, or a profile of dbt."""
        _check_yaml(block.text)
        return ""

    def json(self, block: Block) -> str:
        """Parse it."""
        json.loads(block.text)
        return ""

    def log(self, block: Block) -> str:
        """See that it is what the package's logger writes; waiting times differ from run to run."""
        for line in block.text.splitlines():
            if not re.match(r"(DEBUG|INFO|WARNING|ERROR):fleming_sql:\S", line):
                raise WrongBlock(f"{self._file.name}:{block.line}: {line!r} is no line of the logger fleming_sql")
        return ""

    def drawing(self, block: Block) -> str:
        """Leave it: lines drawn with characters, in documents that are no pages of the site."""
        if self._file.parent != ROOT:
            raise WrongBlock(f"{self._file.name}:{block.line}: name the language of the block")
        return ""


_RULES: Final[Mapping[str, Callable[[Reader, Block], str]]] = {
    "python": Reader.python,
    "sql": Reader.sql,
    "sh": Reader.sh,
    "ipython": Reader.ipython,
    "yaml": Reader.yaml,
    "json": Reader.json,
    "log": Reader.log,
    "": Reader.drawing,
}


def is_shown(expected: str, shown: str, *, has_gaps: bool = False) -> bool:
    """Return whether a document shows what came: but for blanks at the ends of lines, and empty lines at the end.

    Args:
        expected: By the document.
        shown: By the block.
        has_gaps: Whether `…` stands for whatever differs from run to run: within a line, or for whole lines.
    """
    wanted, came = ([line.rstrip() for line in text.rstrip().splitlines()] for text in (expected, shown))
    if wanted == came or not has_gaps:
        return wanted == came
    pattern = "\n".join(r"[\s\S]*" if line == "…" else re.escape(line).replace("…", ".*") for line in wanted)
    return re.fullmatch(pattern, "\n".join(came)) is not None


def write(block: Block) -> None:
    """Make the file that a block is.

    Raises:
        WrongBlock: It would be outside of the current folder.
    """
    file = Path(block.title or "")
    if file.is_absolute() or ".." in file.parts:
        raise WrongBlock(f"line {block.line}: {block.title} is outside of the folder")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text, "utf-8")


def _joined(text: str) -> list[str]:
    """Return the commands of a block, those over several lines as one."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def _environment() -> dict[str, str]:
    """Return the environment of commands: `fleming` and `python` are this checkout's, whatever is installed."""
    tools = Path.cwd() / ".tools"
    tools.mkdir(exist_ok=True)
    for name, arguments in (("fleming", " -m fleming_sql"), ("python", "")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n', "utf-8")
        tool.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
        "NO_COLOR": "1",
    }


def _is_checked_only(line: str) -> bool:
    """Check a command that is not run here, and return whether it is one."""
    words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
    if not words:
        return "=" not in line or line.lstrip().startswith("#")
    check = _CHECKED_ONLY.get(words[0]) or _CHECKED_ONLY.get(" ".join(words[:2]))
    if check is not None:
        check(words)
    return check is not None


def _is_target(words: list[str]) -> None:
    """`make …` would make environments."""
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    targets = [word for word in words[1:] if "=" not in word]
    if missing := set(targets) - set(known):
        raise WrongBlock(f"the Makefile has no target {missing}")


def _is_install(words: list[str]) -> None:
    """`pip install …` needs a network; the extras that it names have to exist."""
    if words[1] != "install" or len(words) < 3:
        raise WrongBlock(f"{shlex.join(words)} is no pip install")
    for word in words[2:]:
        named = re.match(r"(?:\.|fleming-sql)\[([\w,-]+)\]$", word)
        extras = set(named[1].split(",")) if named else set()
        if missing := extras - set(_PYPROJECT["project"]["optional-dependencies"]):
            raise WrongBlock(f"pyproject.toml has no extra {missing}")


def _is_command(words: list[str]) -> None:
    """`fleming shell` and the like need somebody at the keyboard; the command has to exist."""
    subprocess.run([sys.executable, "-m", "fleming_sql", words[1], "--help"], check=True, capture_output=True)


def _is_of_extra(extra: str) -> Callable[[list[str]], None]:
    """Return a check of a program of another package: an extra brings it, and tests of its own run it."""

    def check(words: list[str]) -> None:
        if extra not in _PYPROJECT["project"]["optional-dependencies"]:
            raise WrongBlock(f"{words[0]} comes with the extra {extra}, which pyproject.toml does not have")

    return check


_CHECKED_ONLY: Final[Mapping[str, Callable[[list[str]], None]]] = {
    "make": _is_target,
    "pip": _is_install,
    "fleming shell": _is_command,
    "dbt": _is_of_extra("dbt"),
    "jupyter": _is_of_extra("notebook"),
    "marimo": _is_of_extra("notebook"),
    "opentelemetry-instrument": _is_of_extra("otel"),
}


def _check_yaml(text: str) -> None:
    content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise WrongBlock(f"not a mapping: {content!r}")
    profiles = [item["outputs"] for item in content.values() if isinstance(item, dict) and "outputs" in item]
    outputs = [output for profile in profiles for output in profile.values()]
    if "plugins" in content:  # of an output, without what stands around it
        outputs.append(content)
    for output in outputs:
        for plugin in output.get("plugins", []):
            if plugin["module"] == "fleming_sql.dbt":
                read_config(plugin.get("config", {}))
    if not outputs:
        with fleming_sql.connect() as con, contextlib.closing(ConfigStore(con.duckdb)) as store:
            store.plan(text, "the block", "yaml")
