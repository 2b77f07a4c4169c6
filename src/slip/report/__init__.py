"""Run folders → one self-contained HTML page, or a plain-text table."""

from slip.report.page import check_place, write_report
from slip.report.runs import Run, load_run
from slip.report.table import comparison

__all__ = ["Run", "check_place", "comparison", "load_run", "write_report"]
