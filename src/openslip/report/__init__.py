"""Run folders → one self-contained HTML page, or a plain-text table."""

from openslip.report.page import check_place, write_report
from openslip.report.runs import Run, load_run
from openslip.report.table import comparison

__all__ = ["Run", "check_place", "comparison", "load_run", "write_report"]
