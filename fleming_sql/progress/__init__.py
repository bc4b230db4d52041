"""How far a running statement is, shown where its user looks: a terminal, a Jupyter cell, a marimo cell, or nowhere."""

from fleming_sql.progress.figures import Figures
from fleming_sql.progress.watch import Bar, Watch

__all__ = ["Bar", "Figures", "Watch"]
