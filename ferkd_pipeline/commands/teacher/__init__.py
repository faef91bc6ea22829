"""`ferkd-pipeline teacher`: look at teachers before they are asked about every crop."""

from ferkd_pipeline.commands.teacher.group import teacher

__all__ = ["teacher"]
