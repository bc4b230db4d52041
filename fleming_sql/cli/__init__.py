"""The command `fleming`."""

from __future__ import annotations


def main() -> None:
    """Run the command with the arguments of this process, and end the process with its exit code."""
    from fleming_sql.cli.main import fleming

    fleming.main(prog_name="fleming")
