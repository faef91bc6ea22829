"""Which layers of a network tell the classes apart, whoever wrote the network."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from store.errors import ParamsError


def classifier_parameters(module: nn.Module) -> frozenset[str]:
    """Names of the parameters of the classifying layers, as in ``module.named_parameters()``.

    ``module`` is one that `stages.shared.models.build` made, without wrappers.

    Raises:
        ParamsError: no layer can be told to be the classifier.
    """
    prefixes = tuple(f"{layer}." for layer in classifier_layers(module))
    names = frozenset(
        n for n, _ in module.named_parameters() if prefixes and n.startswith(prefixes)
    )
    if not names:
        raise ParamsError(
            f"model: no classifying layer is known in {type(module).__name__}; let the module have "
            'pretrained_cfg = {"classifier": NAME}, or a Linear layer of an output a class'
        )
    return names


def classifier_layers(module: nn.Module, num_classes: int | None = None) -> tuple[str, ...]:
    """Names of the classifying layers; distilled models have two, and () means not found.

    What the module says of itself counts most: ``pretrained_cfg["classifier"]`` or
    ``get_classifier()``, as timm's models have them. Else it is the last Linear layer with
    ``num_classes`` outputs (by default ``module.num_classes``), and where there is none such, the
    last convolution of 1x1 (SqueezeNet).
    """
    num_classes = getattr(module, "num_classes", None) if num_classes is None else num_classes
    for names in (_described(module), _returned(module), _last(module, num_classes)):
        if names:
            return names
    return ()


def described_by(module: nn.Module) -> dict[str, Any]:
    """What a module says of its pretraining: ``pretrained_cfg``, else ``default_cfg``, else {}."""
    for name in ("pretrained_cfg", "default_cfg"):
        described = getattr(module, name, None)
        if isinstance(described, dict):
            return described
    return {}


def _described(module: nn.Module) -> tuple[str, ...]:
    """Only layers that are there: a module may carry the description of a network inside it."""
    names = described_by(module).get("classifier") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    layers = dict(module.named_modules())
    return tuple(name for name in names if name in layers and _has_parameters(layers[name]))


def _returned(module: nn.Module) -> tuple[str, ...]:
    ask = getattr(module, "get_classifier", None)
    if not callable(ask):
        return ()
    try:
        answer = ask()
    except TypeError:  # one's own method of that name may want arguments
        return ()
    layers: Iterable[object] = answer if isinstance(answer, tuple | list) else (answer,)
    wanted = {id(layer) for layer in layers if isinstance(layer, nn.Module)}
    return tuple(
        name
        for name, layer in module.named_modules()
        if name and id(layer) in wanted and _has_parameters(layer)
    )


def _last(module: nn.Module, num_classes: int | None) -> tuple[str, ...]:
    linear, convolutions = [], []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and layer.out_features == num_classes:
            linear.append(name)
        elif (
            isinstance(layer, nn.Conv2d)
            and layer.out_channels == num_classes
            and layer.kernel_size == (1, 1)
        ):
            convolutions.append(name)
    return tuple((linear or convolutions)[-1:])


def _has_parameters(layer: nn.Module) -> bool:
    return next(layer.parameters(), None) is not None
