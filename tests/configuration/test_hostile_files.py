"""Files that are wrong in ways that a parser does not tell of, and those that hold keys where one does not look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fleming_sql
from fleming_sql.configuration import ConfigFileError, ConfigStore

CELL = "endpoints:\n  - name: chat\n    default_parameters: {}\n"


@pytest.fixture
def gateway() -> Iterator[fleming_sql.Connection]:
    with fleming_sql.connect() as con:
        yield con


@pytest.fixture
def config(gateway: fleming_sql.Connection) -> ConfigStore:
    return ConfigStore(gateway.duckdb)


def _refusal(config: ConfigStore, text: str, form: str = "yaml") -> str:
    with pytest.raises(ConfigFileError) as refused:
        config.plan(text, "gateway", form)  # type: ignore[arg-type]
    return str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        "!!int abc",
        "!!float abc",
        "!!bool abc",
        "!!timestamp 2001-13-45",
        "!!timestamp abc",
        "1" * 5000,
        '"\\ud83d"',
    ],
)
def test_a_value_that_cannot_be_read_is_a_fault_with_its_line(config: ConfigStore, value: str) -> None:
    assert "gateway:3: " in _refusal(config, CELL.replace("{}", f"{{a: {value}}}"))


def test_the_escaped_halves_of_a_character_are_joined(config: ConfigStore) -> None:
    plan = config.plan('{"endpoints": [{"name": "\\ud83d\\ude00"}]}', "gateway", "yaml")
    assert plan.diff.tables[0].added[0].values["name"] == "😀"


def test_aliases_that_stand_for_more_than_memory_holds_are_refused(config: ConfigStore) -> None:
    levels = ", ".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9))
    assert "aliases" in _refusal(config, CELL.replace("{}", f"{{a0: &a0 [x], {levels}}}"))


def test_an_alias_of_itself_is_refused(config: ConfigStore) -> None:
    assert "gateway" in _refusal(config, CELL.replace("{}", "&a {x: *a}"))


@pytest.mark.parametrize("name", ["api_key", "key", "access_token", "token", "sig", "code"])
def test_a_key_in_the_query_of_an_address_is_refused_and_not_shown(config: ConfigStore, name: str) -> None:
    row = f"{{name: x, provider: openai, model: m, base_url: 'https://h/v1?v=1&{name}=hunter2hunter2'}}"
    told = _refusal(config, f"endpoints:\n  - name: chat\n    served_entities: [{row}]\n")
    assert "base_url" in told
    assert "hunter2" not in told


@pytest.mark.parametrize("name", ["x-api-key", "Authorization", "api-key", "Ocp-Apim-Subscription-Key"])
def test_a_key_in_a_header_is_refused_and_not_exported(
    config: ConfigStore, gateway: fleming_sql.Connection, name: str
) -> None:
    gateway.execute("insert into fleming.endpoints (name) values ('chat')")
    gateway.execute(
        "insert into fleming.served_entities (endpoint, name, provider, provider_config) "
        f"""values ('chat', 'a', 'simulated', '{{"headers": {{"{name}": "hunter2"}}}}')"""
    )
    with pytest.raises(ConfigFileError) as refused:
        config.export("yaml")
    assert name in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_header_that_names_a_credential_is_accepted(config: ConfigStore) -> None:
    row = "{name: x, provider: simulated, provider_config: {headers: {x-api-key: '{{secrets/a/b}}', x-team: core}}}"
    plan = config.plan(f"endpoints:\n  - name: chat\n    served_entities: [{row}]\n", "gateway", "yaml")
    assert plan.diff.count() == (2, 0, 0)


def test_an_exported_sql_file_has_one_delete_for_each_table_of_filled_keys(
    config: ConfigStore, gateway: fleming_sql.Connection
) -> None:
    gateway.execute("insert into fleming.endpoints (name) select 'e' || i from range(300) as t(i)")
    gateway.execute(
        "insert into fleming.served_entities (endpoint, name, provider) "
        "select 'e' || i, 'a', 'simulated' from range(300) as t(i)"
    )
    text = config.export("sql")
    assert text.count("delete from") == 2
    assert config.plan(text, "gateway", "sql").diff.is_empty
