"""What is wrong with a configuration file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fleming_sql.errors import ConfigError

_SHOWN: Final = 20


class ConfigFileError(ConfigError):
    """A configuration file cannot be applied; nothing of it was.

    Args:
        faults: One sentence each, with the place in the file, what is wrong and what would be accepted.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        more = len(faults) - _SHOWN
        super().__init__("\n".join([*faults[:_SHOWN], *([f"… and {more} more"] if more > 0 else [])]))
        self.faults = tuple(faults)
