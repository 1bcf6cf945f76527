"""What a run shows: the phase diagram, the page, the tables behind them.

    python -m compfast.report RUN        # or compfast.report.write_report("RUN")

draws the report of a run (again), at any time. Importing this package does not import matplotlib;
drawing does.
"""

from compfast.report.figures import write_figures
from compfast.report.page import write_report
from compfast.report.phase import phase_diagram

__all__ = ["phase_diagram", "write_figures", "write_report"]
