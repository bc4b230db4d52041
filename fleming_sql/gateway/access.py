"""What a request to a provider is authorised with: the entity's secrets, and what they were exchanged for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fleming_sql.clock import Clock
from fleming_sql.credentials import CredentialResolver, secret_reference, secret_references
from fleming_sql.errors import CredentialError
from fleming_sql.gateway.logins import LoginFailed, Logins
from fleming_sql.gateway.redaction import SHORTEST_IN_CONTENT, Redactor
from fleming_sql.policies.failures import Failure
from fleming_sql.providers import Provider
from fleming_sql.providers.base import Grant
from fleming_sql.transport import Transport
from fleming_sql.types import Credential, Secret, ServedEntity

_KEPT: Final = 256
_Redactors = tuple[Redactor, Redactor]


@dataclass(frozen=True, slots=True)
class Access:
    """The secrets of one request, and what keeps them out of the log."""

    own: Mapping[str, Secret]
    """The entity's own."""
    secrets: Mapping[str, Secret]
    """Those, and what they were exchanged for."""
    grant: Grant | None
    errors: Redactor
    """For errors, and what servers say of them."""
    content: Redactor
    """For requests and answers."""


class Doorkeeper:
    """Finds what requests to an entity are authorised with.

    Args:
        transport: The way to token endpoints.
        clock: Time.
    """

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._resolver = CredentialResolver(clock.monotonic)
        self._logins = Logins(transport, clock)
        self._redactors: dict[tuple[str, ...], _Redactors] = {}

    async def access(
        self, provider: Provider, entity: ServedEntity, credentials: Mapping[str, Credential], timeout_s: float
    ) -> Access:
        """Return the secrets to call an entity with, logging in where its provider does that.

        Raises:
            LoginFailed: There are none to be had, or not in time.
        """
        try:
            if not provider.logs_in(entity):
                return self._made(await self._own(provider, entity, credentials), None)
            async with asyncio.timeout(timeout_s):
                return await self._log_in(provider, entity, credentials)
        except CredentialError as error:
            raise LoginFailed(Failure("credential", str(error))) from None
        except TimeoutError:
            told = f"no credentials could be had within {timeout_s:.1f} s"
            raise LoginFailed(Failure("timeout", told)) from None

    def renews(self, entity: ServedEntity, access: Access) -> bool:
        """Forget what a server has refused; return whether there may be something newer in its place."""
        is_changed = [self._resolver.forget(secret) for secret in access.own.values()]
        if access.grant is not None:
            self._logins.forget(entity, access.own, access.grant)
        return access.grant is not None or any(is_changed)

    async def _log_in(self, provider: Provider, entity: ServedEntity, credentials: Mapping[str, Credential]) -> Access:
        own = await self._own(provider, entity, credentials)
        try:
            return self._made(own, await self._logins.grant(provider, entity, own))
        except LoginFailed as error:
            if error.failure.kind != "credential" or not self.renews(entity, self._made(own, None)):
                raise
        own = await self._own(provider, entity, credentials)
        return self._made(own, await self._logins.grant(provider, entity, own))

    async def _own(
        self, provider: Provider, entity: ServedEntity, credentials: Mapping[str, Credential]
    ) -> Mapping[str, Secret]:
        named = dict(secret_references(entity.provider_config)) if entity.provider_config else {}
        if entity.credential:
            named["credential"] = secret_reference(entity.credential) or entity.credential
        secrets = {key: await self._resolver.resolve(name, credentials) for key, name in named.items()}
        if not secrets and provider.requires_credential(entity):
            raise CredentialError(
                f'provider "{entity.provider}" needs a credential: {provider.credential_hint(entity)} and name it in '
                f"fleming.served_entities (row {entity.endpoint}/{entity.name}, column credential)"
            )
        return secrets

    def _made(self, own: Mapping[str, Secret], grant: Grant | None) -> Access:
        secrets = own if grant is None else {**own, **grant.secrets}
        values = tuple([secret.reveal() for secret in secrets.values()])
        redactors = self._redactors.get(values)
        if redactors is None:
            if len(self._redactors) >= _KEPT:
                self._redactors.clear()
            redactors = self._redactors[values] = Redactor(values), Redactor(values, SHORTEST_IN_CONTENT)
        return Access(own, secrets, grant, *redactors)
