"""The results of a run for people: printed, and as one page that needs no network."""

from ferkd_pipeline.report.gather import Results, gather
from ferkd_pipeline.report.page import write_page
from ferkd_pipeline.report.terminal import show

__all__ = ["Results", "gather", "show", "write_page"]
