"""A deterministic model that needs no network, for demos, tests and dry runs. It names itself simulated."""

from fleming_sql.providers.simulated.provider import Simulated
from fleming_sql.providers.simulated.settings import Settings
from fleming_sql.providers.simulated.transport import SimulatedTransport

__all__ = ["Settings", "Simulated", "SimulatedTransport"]
