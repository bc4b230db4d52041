from __future__ import annotations

import pytest

from fleming_sql.policies.access import Identity, identify, refuse
from fleming_sql.types import Caller, Permission, Principal, PrincipalType

ADA = Identity("ada", "user", True, frozenset({"analysts"}))


def _identify(caller: Caller, *principals: Principal, groups_of: dict[str, frozenset[str]] | None = None) -> Identity:
    return identify(caller, {principal.name: principal for principal in principals}, groups_of or {})


def test_a_name_without_a_row_is_a_user_that_is_enabled() -> None:
    assert _identify(Caller("ada")) == Identity("ada", "user", True, frozenset())


def test_the_type_and_the_switch_of_a_name_are_those_of_its_row() -> None:
    robot = _identify(Caller("etl"), Principal("etl", "service_principal", enabled=False))

    assert (robot.type, robot.enabled) == ("service_principal", False)


def test_a_caller_named_like_a_group_is_a_user_and_no_member_of_it() -> None:
    assert _identify(Caller("staff"), Principal("staff", "group", enabled=True)) == Identity(
        "staff", "user", True, frozenset()
    )


def test_groups_are_those_claimed_those_of_the_rows_and_those_that_the_claimed_are_in() -> None:
    groups_of = {"ada": frozenset({"rows"}), "claimed": frozenset({"above"}), "other": frozenset({"not hers"})}

    assert _identify(Caller("ada", ("claimed",)), groups_of=groups_of).groups == {"rows", "claimed", "above"}


def test_a_claimed_group_that_is_disabled_leads_nowhere() -> None:
    found = _identify(
        Caller("ada", ("off",)), Principal("off", "group", enabled=False), groups_of={"off": frozenset({"above"})}
    )

    assert found.groups == frozenset()


def test_an_endpoint_without_permissions_is_open() -> None:
    assert refuse("chat", (), ADA) is None


@pytest.mark.parametrize("privilege", ["CAN_QUERY", "CAN_MANAGE"])
@pytest.mark.parametrize(("kind", "name"), [("user", "ada"), ("group", "analysts")])
def test_a_caller_is_let_through_by_a_row_for_itself_or_its_group(
    kind: PrincipalType, name: str, privilege: str
) -> None:
    assert refuse("chat", [Permission(kind, name, privilege)], ADA) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "permission",
    [
        Permission("user", "bob", "CAN_QUERY"),
        Permission("user", "ada", "CAN_VIEW"),
        Permission("group", "analysts", "CAN_VIEW"),
        Permission("service_principal", "ada", "CAN_QUERY"),
        Permission("group", "ada", "CAN_QUERY"),
        Permission("user", "analysts", "CAN_QUERY"),
        Permission("user", "ADA", "CAN_QUERY"),
    ],
)
def test_a_row_for_another_or_without_the_privilege_closes_the_endpoint(permission: Permission) -> None:
    assert refuse("chat", [permission], ADA) is not None


def test_one_row_that_lets_through_is_enough() -> None:
    rows = [Permission("user", "ada", "CAN_VIEW"), Permission("group", "analysts", "CAN_QUERY")]

    assert refuse("chat", rows, ADA) is None


def test_who_is_switched_off_may_call_nothing_not_even_what_is_open() -> None:
    off = Identity("ada", "user", False, frozenset())

    assert "fleming.principals" in str(refuse("chat", (), off))
    assert refuse("chat", [Permission("user", "ada", "CAN_MANAGE")], off) is not None
