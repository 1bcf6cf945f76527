"""What a run shows: the phase diagram, the page, the tables behind them.

Importing this package does not import matplotlib; drawing does.
"""

from compfast.report.page import write_report
from compfast.report.phase import phase_diagram

__all__ = ["phase_diagram", "write_report"]
