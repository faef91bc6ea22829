"""A saved model: a folder of `model.safetensors` and `model.json`, its card. No torch here.

The card says what the weights are of: name and kwargs, classes, pixels, digest. Weights
that a user brings have none.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.shared.model_config import ModelConfig, PixelSpec
from store.errors import DataError

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "model.json"


@dataclass(frozen=True, slots=True)
class Card:
    """What a saved model says of itself."""

    name: str
    """As `ModelConfig.name`."""

    model_kwargs: dict[str, Any]
    """As given to what builds it, without the number of classes."""

    pixels: PixelSpec
    """What it was trained on."""

    classes: tuple[str, ...]
    """Class c stands at place c."""

    digest: str
    """SHA-256 of the weights."""

    extra: dict[str, Any]
    """What the stage that made it wanted to keep."""

    def to_json(self) -> dict[str, Any]:
        """As written to `model.json`."""
        return {
            "name": self.name,
            "model_kwargs": self.model_kwargs,
            "pixels": self.pixels.to_json(),
            "classes": list(self.classes),
            "digest": self.digest,
            "extra": self.extra,
        }


def weights_file(path: Path) -> Path:
    """The file of weights that ``path`` names: itself, or the one in a saved model's folder."""
    return path / WEIGHTS_NAME if path.is_dir() else path


def find_card(path: Path) -> Card | None:
    """The card of weights that this tool saved (a folder or its model.safetensors), or None.

    Raises:
        DataError: there is a card, and it cannot be read.
    """
    file = weights_file(path)
    card = file.with_name(CARD_NAME)
    return load_card(card.parent) if file.name == WEIGHTS_NAME and card.is_file() else None


def load_card(folder: Path) -> Card:
    """Read the card of a saved model.

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        raise DataError(f"{path}: missing, so {folder} is no saved model; train it first")
    try:
        content = json.loads(path.read_bytes())
        return Card(
            name=content["name"],
            model_kwargs=dict(content["model_kwargs"]),
            pixels=PixelSpec.from_json(content["pixels"]),
            classes=tuple(content["classes"]),
            digest=content["digest"],
            extra=dict(content["extra"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged or of another version ({error}); train again") from error


def check_fits(config: ModelConfig, card: Card, path: Path) -> None:
    """Refuse a config that names another model than the card beside the weights.

    Arguments about dropping (drop_rate, drop_path_rate, torchvision's stochastic_depth_prob) may
    differ: they hold no weights.

    Raises:
        DataError: both sides are named.
    """
    if config.name != card.name:
        raise DataError(
            f"{path}: these weights are of {card.name}, the parameters say {config.name}; "
            "change the name or the weights"
        )
    ours, theirs = _holding_weights(config.model_kwargs), _holding_weights(card.model_kwargs)
    if ours != theirs:
        raise DataError(
            f"{path}: these weights are of {card.name} with model_kwargs {json.dumps(theirs)}, "
            f"the parameters say {json.dumps(ours)}; change the kwargs or the weights"
        )


def _holding_weights(kwargs: dict[str, Any]) -> dict[str, Any]:
    # Through JSON: a tuple of the parameters is a list on the card.
    kept = {
        name: value
        for name, value in sorted(kwargs.items())
        if "drop" not in name and "stochastic_depth" not in name
    }
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain
