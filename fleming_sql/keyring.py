"""The operating system's keyring, by the optional package `keyring`, imported nowhere else."""

from __future__ import annotations

import keyring
from keyring.errors import KeyringError


def read_password(service: str, user: str) -> str | None:
    """Return the password of `user` at `service`, None if there is no such entry.

    Raises:
        RuntimeError: The keyring cannot be opened.
    """
    try:
        return keyring.get_password(service, user)
    except KeyringError as error:
        raise RuntimeError(f"the keyring cannot be opened: {type(error).__name__}") from error
