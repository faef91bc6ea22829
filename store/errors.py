"""Errors, grouped by what the caller would do about them.

The command line maps each class to one exit code (``ferkd_pipeline/exit_codes.py``); nothing else
decides on exit codes. A message says what was wrong, where (file, key, value) and what to do.
"""


class FerkdError(Exception):
    """Something failed that the user should read about; base of every error of this project."""


class ParamsError(FerkdError):
    """A parameter or an argument is wrong: change it. No work was started."""


class DataError(FerkdError):
    """Data on disk is missing, damaged, or does not fit other data: make it again."""


class ShardError(FerkdError):
    """A shard that cannot succeed however often it is tried (NaN logits, too many rejects)."""


class RetryError(FerkdError):
    """Nothing is wrong with the input: the command may succeed later (lock busy, slow disk)."""
