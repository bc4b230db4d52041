"""Every Python and SQL block of the documents runs as pasted, and prints what the document says it prints."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

import fleming_sql

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENTS: Final = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.exists()
]
_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block that runs, and the text that follows it if that is its output."""

    language: str
    text: str
    line: int
    expected: str | None


def blocks_of(document: str) -> Iterator[Block]:
    """Yield the Python and SQL blocks of a document; a text block directly below one is its output."""
    fences = [*_FENCE.finditer(document), None]
    for fence, following in pairwise(fences):
        if fence is None or fence[1] not in ("python", "sql"):
            continue
        expected = None
        if following and following[1] == "text" and not document[fence.end() : following.start()].strip():
            expected = following[2]
        yield Block(fence[1], fence[2], document.count("\n", 0, fence.start()) + 2, expected)


def run(block: Block, namespace: dict[str, Any], file: Path) -> str:
    """Run a block and return what it shows: a statement's last table, or what Python printed."""
    if block.language == "python":
        printed = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.text, str(file), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)  # noqa: S102  the repository's own documents
        return printed.getvalue()
    relation = namespace["con"].sql(block.text)
    return "" if relation is None else str(relation)


def same_text(text: str) -> list[str]:
    """Return the lines that count: no trailing blanks, no empty lines at the end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda path: path.name)
def test_the_blocks_of_a_document_run_and_show_what_it_says(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "document"}

    try:
        for block in blocks_of(file.read_text("utf-8")):
            shown = run(block, namespace, file)

            if block.expected is not None:
                assert same_text(shown) == same_text(block.expected), f"{file.name}:{block.line}\n{shown}"
    finally:
        for opened in namespace.values():
            if isinstance(opened, fleming_sql.Connection):
                opened.close()


def test_a_text_block_is_the_output_of_the_block_directly_above_it() -> None:
    document = "```sql\nselect 1\n```\n\n```text\n1\n```\n\n```python\nx = 1\n```\nwords\n```text\n2\n```\n"

    assert list(blocks_of(document)) == [
        Block("sql", "select 1\n", 2, "1\n"),
        Block("python", "x = 1\n", 10, None),
    ]


def test_the_readme_is_short_and_has_blocks_with_output() -> None:
    text = (ROOT / "README.md").read_text("utf-8")

    assert len(text.splitlines()) < 350
    assert sum(block.expected is not None for block in blocks_of(text)) >= 8


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_of_the_repository_lead_somewhere(file: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text("utf-8"))

    assert [link for link in links if not (file.parent / link).exists()] == []
