"""What came out: the report is written, its numbers are printed."""

from __future__ import annotations

from compfast.cli.output import Output, aligned
from compfast.runs import Run


def show(run: Run, output: Output) -> None:
    """Write the report; print the table by gamma, its sentences and the report's paths."""
    from compfast.report import write_report
    from compfast.report.table import rows_by_gamma, second_axes, sentences

    paths = write_report(run, run.path / "report")
    for line in aligned(*rows_by_gamma(run.members, second_axes(run.config)[:1])):
        output.say(line)
    for line in [*sentences(run.members, run.config), *(str(path) for path in paths)]:
        output.say(line)
