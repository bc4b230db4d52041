"""The site, built once from the documents and the catalog without a network: what is in it, where its links lead."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest

import fleming_sql

ROOT: Final = Path(__file__).resolve().parent.parent
_BUILD: Final = """
import socket, sys
from mkdocs.__main__ import cli

def refuse(self, address, *_):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        raise OSError(f"the build of the site connects to {address}")
    return connect(self, address)

connect, socket.socket.connect = socket.socket.connect, refuse
cli(["build", "--strict", "--config-file", sys.argv[1], "--site-dir", sys.argv[2]])
"""
_LOADED: Final = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""What a browser fetches by itself, by element."""


@dataclass
class Page(HTMLParser):
    """One page as a browser would see it: its anchors, where it points, what it loads and what it says."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        address = values.get(_LOADED.get(tag, ""))
        if address is not None and values.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(address)

    def handle_data(self, data: str) -> None:
        self.text += data

    __hash__ = object.__hash__


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-c", _BUILD, ROOT / "mkdocs.yml", folder],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """All pages but the one that says that there is none, whose links start at the root of a server."""
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


@pytest.fixture(scope="module")
def con() -> Iterator[fleming_sql.Connection]:
    with fleming_sql.connect() as con:
        yield con


def test_the_site_has_a_page_for_each_document(site: Path, pages: dict[Path, Page]) -> None:
    documents = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]

    assert [document for document in documents if site / document.with_suffix(".html") not in pages] == []


def test_links_within_the_site_lead_to_a_page_and_a_place_in_it(pages: dict[Path, Page]) -> None:
    broken = []
    for page in pages.values():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            known = pages.get(target)
            if not target.exists() or (known and parts.fragment and unquote(parts.fragment) not in known.anchors):
                broken.append((page.path.name, link))

    assert broken == []


def test_links_to_other_sites_are_whole_addresses(pages: dict[Path, Page]) -> None:
    outward = [urlsplit(link) for page in pages.values() for link in page.links if urlsplit(link).scheme]

    assert [link.geturl() for link in outward if link.scheme not in ("https", "mailto") or " " in link.geturl()] == []
    assert [link.geturl() for link in outward if link.scheme == "https" and "." not in link.netloc] == []


def test_a_reader_without_a_network_sees_all_of_it(site: Path, pages: dict[Path, Page]) -> None:
    elsewhere = [(page.path.name, link) for page in pages.values() for link in page.loaded if urlsplit(link).netloc]
    styles = [
        path.name for path in site.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//", path.read_text("utf-8"))
    ]
    drawings = [path.name for path in site.rglob("*.svg") if re.search(r"href=|@import", path.read_text("utf-8"))]

    assert (elsewhere, styles, drawings) == ([], [], [])


def test_what_a_page_loads_is_there(pages: dict[Path, Page]) -> None:
    loaded = [page.path.parent / unquote(urlsplit(link).path) for page in pages.values() for link in page.loaded]

    assert [path for path in loaded if not path.exists()] == []


def test_every_table_view_and_column_is_on_a_page(
    con: fleming_sql.Connection, site: Path, pages: dict[Path, Page]
) -> None:
    page_of = {"main": "configuration", "serving": "serving", "lake": "lake"}
    columns = con.execute("""
        select schema_name, table_name, column_name
        from duckdb_columns()
        where database_name = 'fleming' and not starts_with(table_name, '__')
    """).fetchall()

    missing = []
    for schema, table, column in columns:
        page = pages[site / "reference" / f"{page_of[schema]}.html"]
        if table not in page.anchors or column not in page.text:
            missing.append(f"{schema}.{table}.{column}")
    assert len(columns) > 300
    assert missing == []


def test_every_function_is_on_the_page_of_functions_with_arguments_and_an_example(
    con: fleming_sql.Connection, site: Path, pages: dict[Path, Page]
) -> None:
    page = pages[site / "reference" / "functions.html"]
    functions = con.execute("""
        select distinct function_name, unnest(parameters)
        from duckdb_functions()
        where database_name = 'fleming' and not internal and not starts_with(function_name, '__')
    """).fetchall()

    assert {name for name, _ in functions} >= {"ai_query", "ai_cache_clear"}
    assert [pair for pair in functions if pair[0] not in page.anchors or pair[1] not in page.text] == []
    assert "failOnError => true" in page.text
    assert "│ refund" in page.text or "│ praise" in page.text


def test_the_comments_of_the_catalog_are_the_text_of_the_pages(
    con: fleming_sql.Connection, site: Path, pages: dict[Path, Page]
) -> None:
    page = pages[site / "reference" / "configuration.html"]
    comments = con.execute("""
        select comment
        from duckdb_columns()
        where database_name = 'fleming' and schema_name = 'main' and comment is not null
    """).fetchall()

    assert [text for (text,) in comments if text.replace("\n", " ") not in page.text] == []


def test_every_error_is_in_the_catalogue_of_errors(
    con: fleming_sql.Connection, site: Path, pages: dict[Path, Page]
) -> None:
    page = pages[site / "reference" / "errors.html"]
    codes = con.execute("select condition, error_code, meaning from fleming.error_codes").fetchall()

    assert [text for row in codes for text in row if text is not None and text not in page.text] == []


def test_every_public_name_of_the_package_is_on_the_page_of_python(site: Path, pages: dict[Path, Page]) -> None:
    page = pages[site / "reference" / "python.html"]

    assert [name for name in fleming_sql.__all__ if name != "__version__" and name not in page.anchors] == []


def test_the_reference_is_not_kept_beside_what_it_is_made_from() -> None:
    assert not (ROOT / "docs" / "reference").exists()
