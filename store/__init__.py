"""The label store: schemas, codecs, shards, integrity and the training view. No torch in here.

>>> from store import LabelStore
>>> LabelStore("labels").info()
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from store.notebook.label_store import LabelStore
    from store.view.reader import TrainingView

__all__ = ["LabelStore", "TrainingView"]


def __getattr__(name: str) -> Any:
    """Load the public names when they are asked for, so that importing `store` stays cheap."""
    if name == "LabelStore":
        from store.notebook.label_store import LabelStore

        return LabelStore
    if name == "TrainingView":
        from store.view.reader import TrainingView

        return TrainingView
    raise AttributeError(f"module 'store' has no attribute {name!r}")
