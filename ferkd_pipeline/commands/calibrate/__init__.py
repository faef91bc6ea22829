"""`ferkd-pipeline calibrate`: what calibrations would do, before they are written."""

from ferkd_pipeline.commands.calibrate.group import calibrate

__all__ = ["calibrate"]
