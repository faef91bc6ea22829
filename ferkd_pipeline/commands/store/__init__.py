"""`ferkd-pipeline store`: look at a label store, check it, compare it, take from it, clean up."""

from ferkd_pipeline.commands.store.group import store

__all__ = ["store"]
