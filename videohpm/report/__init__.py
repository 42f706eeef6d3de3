"""Runs as one self-contained page: written to a file, or served on this machine."""

from videohpm.report.explore import ReportServer, explore
from videohpm.report.page import page, report
from videohpm.report.runs import Run, load_run, load_runs

__all__ = ["ReportServer", "Run", "explore", "load_run", "load_runs", "page", "report"]
