"""Who may call an endpoint: names and groups in, a refusal or none out.

In process the user and groups are what the connection says they are (`connect(user=…, groups=…)`), so a permission
keeps honest people apart. Only a gateway server, which knows its callers by their keys, can hold it against others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleming_sql.types import Caller, Permission, Principal, PrincipalType

CALLING: Final = frozenset({"CAN_QUERY", "CAN_MANAGE"})
"""The privileges that let a call through."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a caller is, as far as the configuration knows."""

    name: str
    type: PrincipalType
    enabled: bool
    groups: frozenset[str]
    """Enabled groups, those of groups included."""


def identify(caller: Caller, principals: Mapping[str, Principal], groups_of: Mapping[str, frozenset[str]]) -> Identity:
    """Return who a caller is: its row of `principals` where it has one, else a user that nobody has switched off.

    Args:
        caller: As the connection names it.
        principals: By name.
        groups_of: By member, the enabled groups that it is in, through others too.
    """
    known = principals.get(caller.user)
    claimed = [name for name in caller.groups if name not in principals or principals[name].enabled]
    is_group = known is not None and known.type == "group"  # a user who is called like it is not in its groups
    groups = set(claimed) | (frozenset() if is_group else groups_of.get(caller.user, frozenset()))
    for name in claimed:
        groups |= groups_of.get(name, frozenset())
    if known is None or is_group:
        return Identity(caller.user, "user", True, frozenset(groups))
    return Identity(caller.user, known.type, known.enabled, frozenset(groups))


def refuse(endpoint: str, permissions: Sequence[Permission], identity: Identity) -> str | None:
    """Return why a call must not be made, None where it may be.

    Args:
        endpoint: Its name.
        permissions: Its rows; none leaves it open.
        identity: Who asks.
    """
    kind = identity.type.replace("_", " ")
    if not identity.enabled:
        return (
            f'the {kind} "{identity.name}" is switched off: set the column enabled of its row in fleming.principals '
            "to true"
        )
    if not permissions or granting(permissions, identity) is not None:
        return None
    return (
        f'the {kind} "{identity.name}" may not query the endpoint "{endpoint}": it needs the privilege CAN_QUERY, for '
        f"itself (table fleming.permissions, principal_type '{identity.type}') or for a group that it is in"
    )


def granting(permissions: Sequence[Permission], identity: Identity) -> Permission | None:
    """Return the row that lets a caller's calls through, None without one.

    Args:
        permissions: Those of one endpoint.
        identity: Who asks.
    """
    return next((p for p in permissions if p.privilege in CALLING and _is_for(p, identity)), None)


def _is_for(permission: Permission, identity: Identity) -> bool:
    if permission.principal_type == "group":
        return permission.principal in identity.groups
    return permission.principal_type == identity.type and permission.principal == identity.name
