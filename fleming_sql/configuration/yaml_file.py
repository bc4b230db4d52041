"""The configuration as a YAML file: lists of rows by table, the served entities within their endpoints.

A column that a row does not have has its default. A cell that is a text may stand without quotes, whatever it looks
like: `no` and `1.10` are texts in a column of texts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

from fleming_sql.configuration.errors import ConfigFileError
from fleming_sql.configuration.rows import Row, Rows
from fleming_sql.configuration.schema import Schema, Table, Value
from fleming_sql.configuration.secrets import SECRET_COLUMNS, find_secret, looks_like_secret
from fleming_sql.configuration.values import WrongType, comparable, from_node, to_file

_SHOWN: Final = 40
_MOST_REPEATED: Final = 100_000
"""Values that aliases may repeat: a few lines of aliases of aliases stand for more than any memory holds."""
_NOT_STORED: Final = (
    "the value of a secret is never stored: say where it is found with source (env, file, keyring or command) and "
    "reference, such as the name of an environment variable"
)
_HEAD: Final = """\
# The configuration of a fleming-sql gateway. `fleming apply FILE --dry-run` shows what would change.
# A column that a row does not have has its default. Secrets are not here: credentials say where they are found.
"""


class _Loader(yaml.SafeLoader):
    """YAML as its version 1.2 has it: no sexagesimal numbers, no times, and only true and false are booleans."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  as PyYAML has it

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Say where a value is that does not fit the tag before it, such as `!!int abc`."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError):
            kind = node.tag.rpartition(":")[2]
            told = f"{_shown(node)} cannot be read as {kind}: write it another way, or in quotes"
            raise yaml.constructor.ConstructorError(None, None, told, node.start_mark) from None


class _Dumper(yaml.SafeDumper):
    """Writes so that readers of both versions of YAML find the same."""

    yaml_implicit_resolvers = {key: list(rules) for key, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything in full."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent the items of lists too."""
        super().increase_indent(flow, False)


_RESOLVERS: Final = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
)
for _kind in (_Loader, _Dumper):
    for _tag, _form, _first in _RESOLVERS:
        _kind.add_implicit_resolver(
            _tag, re.compile(f"^(?:{_form})$"), [*_first.replace("\0", ""), *([""] if "\0" in _first else [])]
        )
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _number(node.value))


def _number(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    lines = text.split("\n")
    if not all(line.isprintable() for line in lines):
        style = '"'  # what some readers take for the end of a line is escaped there
    elif len(lines) > 1 and lines[0].strip() and lines[0] == lines[0].lstrip() and _ends_clean(lines):
        style = "|"
    else:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _ends_clean(lines: list[str]) -> bool:
    return all(line == line.rstrip() for line in lines)


_Dumper.add_representer(str, _represent_text)


def write_yaml(schema: Schema, rows: Rows) -> str:
    """Return the rows as a file, less what is at its default.

    Args:
        schema: Of the rows.
        rows: By table.
    """
    document: dict[str, Any] = {}
    known: dict[tuple[str, Value], dict[str, Any]] = {}
    for table in schema.tables.values():
        for row in rows[table.name]:
            written = _written(table, row)
            parent = known.get((table.parent, row.values[table.parent_column])) if table.parent else None
            if parent is None:
                document.setdefault(table.name, []).append(written)
            else:
                del written[table.parent_column]
                parent.setdefault(table.name, []).append(written)
            if schema.children(table.name):
                known[table.name, row.values[table.key[0]]] = written
    parts = [_dump({name: found}) for name, found in document.items()]
    return "\n".join([_HEAD, *parts])


def _written(table: Table, row: Row) -> dict[str, Any]:
    return {
        column.name: to_file(column, row.values[column.name])
        for column in table.columns.values()
        if column.name in table.key[:1]
        or column.name == table.parent_column
        or comparable(column, row.values[column.name]) != comparable(column, column.default)
    }


def _dump(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def read_yaml(schema: Schema, text: str, source: str) -> dict[str, list[Row]]:
    """Read a file.

    Args:
        schema: What it may speak of.
        text: The file.
        source: Its name, for messages.

    Returns:
        The rows of the tables that are in it, in full: defaults stand where the file has nothing.

    Raises:
        ConfigFileError: With all that is wrong with it.
    """
    try:
        root = _compose(text)
        reader = _Reader(schema, source)
        if root is not None:
            reader.check(root)
            reader.read(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        told = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigFileError([f"{source}{line}: this is not YAML: {told}"]) from None
    except yaml.YAMLError as error:  # a character that YAML does not take
        raise ConfigFileError([f"{source}: this is not YAML: {str(error).splitlines()[0]}"]) from None
    except RecursionError:
        raise ConfigFileError([f"{source}: it is nested too deep"]) from None
    if reader.faults:
        raise ConfigFileError(reader.faults)
    return reader.rows


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    return node


class _Reader:
    """Makes rows of the nodes of one file, and collects what is wrong with it."""

    def __init__(self, schema: Schema, source: str) -> None:
        self._schema = schema
        self._source = source
        self.rows: dict[str, list[Row]] = {}
        self.faults: list[str] = []
        self._first: dict[tuple[Value, ...], Row] = {}
        """The first row with a key, by table and key."""

    def check(self, root: yaml.Node) -> None:
        """Refuse what no cell can hold, before anything is made of it.

        Raises:
            ConfigFileError: Aliases repeat too much.
        """
        sizes: dict[int, int] = {}
        size = self._size(root, sizes)
        if size - len(sizes) > _MOST_REPEATED:
            told = f"with its aliases the file has {size:,} values, {_MOST_REPEATED:,} of them repeated at most"
            raise ConfigFileError([f"{self._source}: {told}: write fewer aliases"])

    def _size(self, node: yaml.Node, sizes: dict[int, int]) -> int:
        """Return how many nodes a node stands for; an alias is the node itself, which is looked at once."""
        if id(node) in sizes:
            return sizes[id(node)]
        sizes[id(node)] = 1  # one within itself ends here; that it cannot be made is told where it is read
        if isinstance(node, yaml.ScalarNode):
            self._join_halves(node)
        inner = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else node.value
        of_inner = 0 if isinstance(node, yaml.ScalarNode) else sum(self._size(one, sizes) for one in inner)
        sizes[id(node)] = 1 + of_inner
        return sizes[id(node)]

    def _join_halves(self, node: yaml.ScalarNode) -> None:
        """Join the escaped halves of a character, as JSON writes those beyond 16 bits."""
        try:
            node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._fault(node, "it holds half of a character, such as \\ud83d without the other half: write it whole")
            node.value = ""

    def read(self, root: yaml.Node) -> None:
        if isinstance(root, yaml.ScalarNode) and root.value == "":
            return
        if not isinstance(root, yaml.MappingNode):
            self._fault(root, f"the file holds lists of rows by table, such as `endpoints:`, not {_described(root)}")
            return
        for name, key, value in self._pairs(root, "the file"):
            table = self._schema.tables.get(name)
            if table is None:
                told = f'there is no table "{name}" in the configuration'
                self._fault(key, f"{told}{_near(name, self._schema.tables, 'tables')}")
            else:
                self._table(table, value, {})

    def _refuse_duplicate(self, table: Table, row: Row) -> None:
        """Refuse a row whose key was there before, also where one of the two is wrong in other ways."""
        if not table.is_unique or any(row.values[name] is None for name in table.key):
            return
        first = self._first.setdefault((table.name, *table.key_of(row.values)), row)
        if first is not row:
            named = _clipped(table.label(row.values))
            told = f'table {table.name}, row "{named}" is there twice, first at {first.place}'
            self.faults.append(f"{row.place}: {told}: keep one, or give the other one another name")

    def _table(self, table: Table, node: yaml.Node, given: Mapping[str, Value]) -> None:
        rows = self.rows.setdefault(table.name, [])
        if _is_null(node):
            told = f"the list of table {table.name} has nothing in it: write [] for no rows, which removes all of them"
            self._fault(node, f"{told} with --prune, or leave {table.name} out")
            return
        if not isinstance(node, yaml.SequenceNode):
            told = f"table {table.name} takes a list of rows, each with a dash before it, not {_described(node)}"
            self._fault(node, told)
            return
        for item in node.value:
            if isinstance(item, yaml.MappingNode):
                row = self._row(table, item, given)
                if row is not None:
                    rows.append(row)
            else:
                told = f"a row of table {table.name} is columns and values, such as `{table.key[-1]}: …`"
                self._fault(item, f"{told}, not {_described(item)}")

    def _row(self, table: Table, node: yaml.MappingNode, given: Mapping[str, Value]) -> Row | None:
        pairs = list(self._pairs(node, f"a row of table {table.name}"))
        children = {child.name: child for child in self._schema.children(table.name)}
        nested = [(children[name], key, value) for name, key, value in pairs if name in children]
        before = len(self.faults)
        values = dict(given)
        label = _label(table, pairs, given)
        for name, key, value in pairs:
            if name in children:
                continue
            if name in given:
                self._fault(key, f"{label}: the column {name} follows from where the row stands: leave it out")
            elif name not in table.columns:
                self._fault(key, f"{label}: {_unknown(table, name)}")
            else:
                self._cell(table, label, name, value, values)
        missing = [name for name, column in table.columns.items() if column.required and values.get(name) is None]
        if missing and len(self.faults) == before:
            self._fault(node, f"{label}: the row needs {', '.join(missing)}")
        self._nested(table, nested, values)
        full = {name: values.get(name, column.default) for name, column in table.columns.items()}
        row = Row(full, f"{self._source}:{node.start_mark.line + 1}")
        is_right = len(self.faults) == before
        self._refuse_duplicate(table, row)
        if not is_right:
            return None
        self._refuse_secrets(table, label, full, node, {name: value for name, _, value in pairs})
        return row

    def _nested(
        self, table: Table, nested: Iterable[tuple[Table, yaml.Node, yaml.Node]], values: Mapping[str, Value]
    ) -> None:
        for child, _, value in nested:
            self._table(child, value, {child.parent_column: values.get(table.key[0])})

    def _cell(self, table: Table, label: str, name: str, node: yaml.Node, values: dict[str, Value]) -> None:
        column = table.columns[name]
        nested = self._construct(node) if column.type == "JSON" and not isinstance(node, yaml.ScalarNode) else None
        try:
            value = from_node(column, node, nested)
        except WrongType as error:
            self._fault(node, f"{label}, column {name}: {_shown(node)} is of the wrong type: {error}")
            return
        if value is None and not column.nullable:
            self._fault(node, f"{label}, column {name}: it must not be empty{_meaning(column.comment)}")
            return
        values[name] = value

    def _construct(self, node: yaml.Node) -> Any:
        for inner in _walk(node):
            if isinstance(inner, yaml.MappingNode):
                list(self._pairs(inner, "an object"))
        loader = _Loader("")
        return loader.construct_document(node)

    def _refuse_secrets(
        self, table: Table, label: str, row: dict[str, Value], node: yaml.Node, cells: Mapping[str, yaml.Node]
    ) -> None:
        for name in cells:
            if name not in table.columns:
                continue
            found = find_secret(table.name, table.columns[name], row)
            if found is not None:
                remedy = _NOT_STORED if table.name == "credentials" else _REFER
                self._fault(cells[name], f"{label}, column {name}: {found}; {remedy}")

    def _pairs(self, node: yaml.MappingNode, whose: str) -> Iterable[tuple[str, yaml.Node, yaml.Node]]:
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, f"{whose} has {_described(key)} where a name belongs")
            elif key.value in seen:
                self._fault(key, f'{whose} has "{_clipped(key.value)}" twice: keep one')
            else:
                seen.add(key.value)
                yield key.value, key, value

    def _fault(self, node: yaml.Node, told: str) -> None:
        self.faults.append(f"{self._source}:{node.start_mark.line + 1}: {told}")


_REFER: Final = (
    "say in credentials where the secret is found, and name that credential here: in the column credential, or as "
    "{{secrets/scope/key}} for the credential scope/key"
)


def _label(table: Table, pairs: Iterable[tuple[str, yaml.Node, yaml.Node]], given: Mapping[str, Value]) -> str:
    cells = {name: value.value for name, _, value in pairs if isinstance(value, yaml.ScalarNode)}
    known = {**cells, **{name: str(value) for name, value in given.items()}}
    if not any(name in known for name in ("name", *table.key)):
        return f"table {table.name}"
    defaults = {name: column.default for name, column in table.columns.items()}
    return f'table {table.name}, row "{_clipped(table.label({**defaults, **known}))}"'


def _unknown(table: Table, name: str) -> str:
    if table.name == "credentials" and name.lower() in SECRET_COLUMNS:
        return f'there is no column "{name}": {_NOT_STORED}'
    return f'there is no column "{_clipped(name)}"{_near(name, table.columns, "columns")}'


def _near(name: str, known: Iterable[str], what: str) -> str:
    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(near) + "?"
    return f"; its {what} are " + ", ".join(names) if what == "columns" else "; there are " + ", ".join(names)


def _shown(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return _described(node)
    return "the value" if looks_like_secret(node.value) else f'"{_clipped(node.value)}"'


def _clipped(text: str) -> str:
    if looks_like_secret(text):
        return "…"
    plain = "".join(letter if letter.isprintable() else "·" for letter in text[:_SHOWN])
    return plain if len(text) <= _SHOWN else f"{plain}…"


def _described(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "an object"
    return "a list" if isinstance(node, yaml.SequenceNode) else f'"{_clipped(str(node.value))}"'


def _meaning(comment: str) -> str:
    return f" ({comment})" if comment else ""


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in ("", "~", "null")


def _walk(node: yaml.Node) -> Iterable[yaml.Node]:
    yield node
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _walk(item)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _walk(value)
