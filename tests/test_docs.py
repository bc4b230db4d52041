"""Every block of the documents is run or checked, and shows what they say it shows; every link leads somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from documents import ROOT, Block, Reader, WrongBlock, blocks_of, is_shown, write

DOCUMENTS: Final = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.exists()
]
DBT: Final = ROOT / "docs" / "dbt.md"
_MADE_BY_BUILD: Final = re.compile(r"(?:\.\./)?(?:reference/[a-z]+|changelog)\.md")
"""Pages that the site's hook writes; tests/test_site.py checks these links."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_the_blocks_of_a_document_run_and_show_what_it_says(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    reader = Reader(file)

    try:
        for block in blocks_of(file.read_text("utf-8")):
            shown = reader.follow(block)

            if block.expected is not None:
                assert is_shown(block.expected, shown, has_gaps=block.language in ("sh", "ipython")), (
                    f"{file.name}:{block.line}\n{shown}"
                )
    finally:
        reader.close()


def test_a_text_block_is_the_output_of_the_block_directly_above_it() -> None:
    document = "```sql\nselect 1\n```\n\n```text\n1\n```\n\n```python\nx = 1\n```\n"

    assert list(blocks_of(document)) == [Block("sql", "select 1\n", 2, "1\n"), Block("python", "x = 1\n", 10)]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("```cobol\nSTOP RUN.\n```\n", "no rule for blocks of the language 'cobol'"),
        ("```python\nx = 1\n```\nwords\n```text\n1\n```\n", "no rule for blocks of the language 'text'"),
        ("```\nwords\n```\n", "name the language"),
        ("```sh\nfleming no-such-command\n```\n", "no-such-command"),
        ("```sh\nmake coffee\n```\n", "no target"),
        ("```sh\npip install '.[coffee]'\n```\n", "no extra"),
        ("```json\n{]\n```\n", "Expecting"),
        ("```yaml\ncoffee: []\n```\n", "coffee"),
        ("```yaml\na: {outputs: {x: {plugins: [{module: fleming_sql.dbt, config: {usr: x}}]}}}\n```\n", "no key usr"),
        ("```log\nsomething happened\n```\n", "no line of the logger"),
    ],
)
def test_a_block_that_is_not_what_it_says_fails(
    document: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader(ROOT / "docs" / "page.md")

    with pytest.raises(Exception, match=re.escape(reason)):
        for block in blocks_of(document):
            reader.follow(block)


def test_a_titled_block_is_a_file_for_the_commands_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader(ROOT / "docs" / "page.md")
    document = '```sql title="a/one.sql"\nselect 1\n```\n\n```sh\ncat a/one.sql # shows it\n```\n'

    assert [reader.follow(block) for block in blocks_of(document)] == ["", "select 1\n"]


def test_a_titled_block_stays_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(WrongBlock, match="outside"):
        Reader(ROOT / "docs" / "page.md").follow(Block("json", "{}", 1, title="../x.json"))


def test_output_of_commands_may_have_gaps() -> None:
    assert is_shown("a\n…\nz 1… ms", "a\nb\nc\nz 17 ms\n", has_gaps=True)
    assert not is_shown("a\n…\nz 1… ms", "a\nb\nz 27 ms\n", has_gaps=True)
    assert not is_shown("a …", "a b")


def test_the_readme_is_short_and_has_blocks_with_output() -> None:
    text = (ROOT / "README.md").read_text("utf-8")

    assert len(text.splitlines()) < 350
    assert sum(block.expected is not None for block in blocks_of(text)) >= 8


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_code_of_a_document_stands_in_fences(file: Path) -> None:
    outside = re.sub(r"^```.*?^```$", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)

    assert re.findall(r"^\n {4,}\S.*", outside, re.MULTILINE) == []


@pytest.mark.parametrize("file", [path for path in DOCUMENTS if path != DBT], ids=name_of)
def test_a_file_of_a_document_is_used_by_a_command_below_it(file: Path) -> None:
    blocks = list(blocks_of(file.read_text("utf-8")))

    for number, block in enumerate(blocks):
        commands = "".join(later.text for later in blocks[number:] if later.language == "sh")
        assert block.title is None or block.title in commands


def test_the_files_of_the_page_on_dbt_build_in_the_place_of_those_of_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    made = shutil.ignore_patterns("target", "logs", "*.duckdb*")
    shutil.copytree(ROOT / "examples" / "dbt_project", project, ignore=made)
    monkeypatch.chdir(project)
    monkeypatch.setenv("DBT_SEND_ANONYMOUS_USAGE_STATS", "false")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for block in blocks_of(DBT.read_text("utf-8")):
        if block.title is not None and block.text not in Path(block.title).read_text("utf-8"):  # else an excerpt
            write(block)

    built = subprocess.run(
        [sys.executable, "-c", "from dbt.cli.main import cli; cli()", "build", "--profiles-dir", "."],
        capture_output=True,
        text=True,
        check=False,
    )

    assert built.returncode == 0, built.stdout


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_links_to_files_of_the_repository_lead_somewhere(file: Path) -> None:
    links: list[str] = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text("utf-8"))

    assert [link for link in links if not _MADE_BY_BUILD.fullmatch(link) and not (file.parent / link).exists()] == []
