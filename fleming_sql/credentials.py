"""From a row of `fleming.credentials` to the secret it points at, at the moment a call needs it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final
from weakref import WeakSet

from fleming_sql import jsontext
from fleming_sql.errors import CredentialError
from fleming_sql.types import Credential, Secret, ServedEntity

COMMAND_TIMEOUT_S: Final = 10.0
REUSE_S: Final = 300.0
"""How long the answer of a slow source (keyring, command) is reused."""
_FRESH_S: Final = 10.0
"""An answer that is refused is asked for again, unless it is younger."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE: Final = re.compile(r"\{\{secrets/(.+)\}\}")


def secret_reference(text: object) -> str | None:
    """Return the credential's name in `{{secrets/scope/key}}`, None if `text` is no such reference.

    Example:
        >>> secret_reference("{{secrets/team/openai}}")
        'team/openai'
    """
    match = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
    return match[1] if match else None


def secret_references(config: Mapping[str, object]) -> Mapping[str, str]:
    """Return the names of the credentials that a provider_config refers to, by key.

    Example:
        >>> secret_references({"api_key_auth": {"key": "x-key", "value": "{{secrets/team/own}}"}})
        {'api_key_auth.value': 'team/own'}
    """
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found.update((f"{key}.{inner}", name) for inner, name in secret_references(value).items())
        elif name := secret_reference(value):
            found[key] = name
    return found


def credentials_of(entity: ServedEntity) -> frozenset[str]:
    """Return the names of the credentials that an entity's row uses."""
    found = {*secret_references(entity.provider_config).values()}
    if entity.credential:
        found.add(secret_reference(entity.credential) or entity.credential)
    return frozenset(found)


class CredentialResolver:
    """Finds secrets, and remembers for a while those that are slow to find.

    Args:
        monotonic: Seconds on a clock that never goes back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._slow: dict[Credential, tuple[float, Secret]] = {}
        self._refused: WeakSet[Secret] = WeakSet()

    async def resolve(self, name: str, credentials: Mapping[str, Credential]) -> Secret:
        """Return the secret behind the credential called `name`.

        Raises:
            CredentialError: It does not exist, is empty or cannot be read.
        """
        credential = credentials.get(name)
        if credential is None:
            raise CredentialError(
                f'the credential "{name}" does not exist: insert it into fleming.credentials (name, source, reference)'
            )
        if credential.source == "env":
            if not _VARIABLE.fullmatch(credential.reference):  # not told: it may be the key itself
                raise _error(credential, "its reference is not the name of an environment variable")
            return _checked(credential, os.environ.get(credential.reference))
        known = self._slow.get(credential)
        if known and self._monotonic() - known[0] < REUSE_S:
            return known[1]
        secret = _checked(credential, await asyncio.to_thread(_SOURCES[credential.source], credential))
        if credential.source != "file":
            self._slow[credential] = (self._monotonic(), secret)
        return secret

    def forget(self, secret: Secret) -> bool:
        """Look anew for a secret that was refused; return whether another one may be found.

        That is so where it is remembered since long enough to have been changed meanwhile, and where another is
        remembered already; not for sources that are asked each time.
        """
        for credential, (since, known) in self._slow.items():
            if known is secret:
                if self._monotonic() - since < _FRESH_S:
                    return False
                del self._slow[credential]
                self._refused.add(secret)
                return True
        return secret in self._refused


def _checked(credential: Credential, value: str | None) -> Secret:
    value = _on_one_line((value or "").strip())
    if not value:
        raise _error(credential, _MISSING[credential.source].format(credential.reference))
    if not (value.isascii() and value.isprintable()):
        raise _error(credential, "what it gives is not one line of plain characters, as a header can carry")
    return Secret(value)


def _on_one_line(value: str) -> str:
    """Return a JSON object without its line breaks: Google hands its keys out with them."""
    if not value.startswith("{"):
        return value
    try:
        return jsontext.dumps(jsontext.loads(value))
    except (ValueError, RecursionError):
        return value


def _error(credential: Credential, reason: str) -> CredentialError:
    return CredentialError(
        f'the credential "{credential.name}" cannot be read: {reason} '
        f"(table fleming.credentials, row {credential.name}, column reference)"
    )


def _read_file(credential: Credential) -> str:
    try:
        return Path(credential.reference).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise _error(credential, f"the file {credential.reference} cannot be read: {reason}") from None


def _run_command(credential: Credential) -> str:
    try:
        done = subprocess.run(  # noqa: S603  the command is the administrator's own, run without a shell
            shlex.split(credential.reference),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise _error(credential, f"the command took longer than {COMMAND_TIMEOUT_S:g} s") from None
    except (OSError, ValueError) as error:
        raise _error(credential, f"the command cannot be run: {error}") from None
    if done.returncode != 0:
        # Its output may hold the secret, so only the exit status is told.
        raise _error(credential, f"the command ended with status {done.returncode}")
    return done.stdout


def _ask_keyring(credential: Credential) -> str | None:
    try:
        from fleming_sql.keyring import read_password
    except ImportError:
        raise _error(credential, "the source keyring needs: pip install 'fleming-sql[keyring]'") from None
    service, _, user = credential.reference.rpartition("/")
    if not service or not user:
        raise _error(credential, f'the reference "{credential.reference}" is not of the form service/user')
    try:
        return read_password(service, user)
    except RuntimeError as error:
        raise _error(credential, str(error)) from None


_SOURCES: Final[Mapping[str, Callable[[Credential], str | None]]] = MappingProxyType(
    {"file": _read_file, "command": _run_command, "keyring": _ask_keyring}
)
_MISSING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "env": "the environment variable {0} is not set or empty",
        "file": "the file {0} is empty",
        "keyring": "the keyring has no entry {0}",
        "command": "the command printed nothing",
    }
)
