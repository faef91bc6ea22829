"""What several stages read."""

from pathlib import Path
from typing import Any

from ferkd_pipeline import fingerprints
from ferkd_pipeline.params import Params
from stages.shared.contract import Json
from stages.shared.model_config import ModelConfig
from store.images import ImageTable
from store.layout import Layout


def layout_of(params: Params) -> Layout:
    """The store's layout: ``.ferkd/`` lies beside the store's folder."""
    return Layout.beside(params.store.root)


def images_folder(params: Params) -> Path:
    """Folder of the training images."""
    config: Any = params.section("index")
    return Path(config.images)


def optional(path: str | None) -> Path | None:
    """A path, where one is given."""
    return None if path is None else Path(path)


def network(model: ModelConfig | None) -> Json:
    """Digest of what a network starts from, where there is one."""
    return None if model is None else fingerprints.of_network(model)


def shown(table: ImageTable) -> str:
    """Digest of the images that a network is shown: which, of which class, with which bytes."""
    return table.digest(0, "paths", "class_ids", "content_hashes")
