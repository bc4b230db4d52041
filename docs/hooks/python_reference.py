"""Writes the page of the Python interface while the site is built: from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import fleming_sql


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to those of the folder. MkDocs calls it."""
    files.append(File.generated(config, "reference/python.md", content=_page()))
    return files


def _page() -> str:
    sections = ["# Python", "All that `import fleming_sql` gives."]
    for name in sorted(fleming_sql.__all__):
        subject = getattr(fleming_sql, name)
        if inspect.isclass(subject):
            sections += [f"## {name} {{: #{name} }}", _documented(f"class {name}", subject)]
            own = [(method, value) for method, value in vars(subject).items() if not method.startswith("_")]
            for method, value in own:
                if inspect.isfunction(value):
                    sections += [f"### {name}.{method}", _documented(_signature(method, value), value)]
        elif callable(subject):
            sections += [f"## {name} {{: #{name} }}", _documented(_signature(name, subject), subject)]
    return "\n\n".join(sections)


def _documented(head: str, subject: object) -> str:
    return f"```python\n{head}\n```\n\n```text\n{inspect.getdoc(subject) or ''}\n```"


def _signature(name: str, function: Callable[..., Any]) -> str:
    """Return a signature, one argument a line, with the types as they are written in the source."""
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    lines = [re.sub(r": '([^']*)'", r": \1", str(parameter)) for parameter in parameters]
    first_named = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if first_named is not None:
        lines.insert(first_named, "*")
    arguments = "".join(f"\n    {line}," for line in lines) + ("\n" if lines else "")
    returned = "" if signature.return_annotation is signature.empty else f" -> {signature.return_annotation}"
    return f"{name}({arguments}){returned}"
