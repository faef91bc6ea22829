"""A saved model: a folder of `model.safetensors` and `model.json`, its card. No torch here.

The card says what the weights are of: name and kwargs, classes, pixels, digest. Weights
that a user brings have none.
"""

import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.shared.model_config import ModelConfig, PixelSpec, library_of
from store import json_text
from store.errors import DataError

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "model.json"
_FIELDS = frozenset({"name", "model_kwargs", "pixels", "classes", "digest", "extra"})
_LARGEST_SIDE = 1 << 14


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
        content = json_text.parse_mapping(path.read_bytes())
        digest = content.pop("sha256", None)
        is_right = content.keys() == _FIELDS if digest is None else digest == _digest(content)
        if not is_right:
            raise ValueError("it does not match its own SHA-256, which you may delete from it")
        card = Card(
            name=content["name"],
            model_kwargs=dict(content["model_kwargs"]),
            pixels=PixelSpec.from_json(content["pixels"]),
            classes=tuple(content["classes"]),
            digest=content["digest"],
            extra=dict(content["extra"]),
        )
        _check(card)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = error.args[0] if isinstance(error, KeyError) else error
        raise DataError(f"{path}: damaged or of another version ({what}); train again") from error
    return card


def card_text(content: dict[str, Any]) -> str:
    """What `model.json` holds: the fields of a card and the SHA-256 of them.

    Without it, one flipped bit in a mean would show a teacher other pixels, silently.
    """
    plain = json.loads(json.dumps(content))  # tuples as lists: so a reader will see them
    described = {**plain, "sha256": _digest(plain)}
    return json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check(card: Card) -> None:
    """Raise ValueError for what no model can be."""
    texts = (card.name, card.digest, *card.classes)
    if not all(isinstance(text, str) for text in texts) or not card.classes:
        raise ValueError("name, digest and classes must be text")
    pixels = card.pixels
    sides, shares = pixels.size, (*pixels.mean, *pixels.std, pixels.crop_ratio)
    is_size = len(sides) == 2 and all(isinstance(side, int) for side in sides)
    if not is_size or not all(1 <= side <= _LARGEST_SIDE for side in sides):
        raise ValueError(f"pixels.size is {list(sides)}")
    is_finite = all(isinstance(share, int | float) and math.isfinite(share) for share in shares)
    if len(shares) != 7 or not is_finite or not min(*pixels.std, pixels.crop_ratio) > 0:
        raise ValueError("pixels must be three means, three positive stds and a crop_ratio")


def check_code(folder: Path, named: Collection[str]) -> None:
    """Refuse a card that names a function of one's own which is not among ``named``.

    To build such a model its module is imported, which runs what stands in it. A card may have been
    downloaded; so only what params.yaml names, too, is run for it. No card, nothing to refuse.

    Raises:
        DataError: names the function; or the card cannot be read.
    """
    card = load_card(folder) if (folder / CARD_NAME).is_file() else None
    if card is not None and library_of(card.name) == "own" and card.name not in named:
        raise DataError(
            f"{folder / CARD_NAME}: names the code {card.name}, which no model in params.yaml "
            "does, so it is not run; name it there (train.model.name) if the code is yours"
        )


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
