"""The network of a linear evaluation: a student's features below a classifier that is new."""

import torch

from stages.shared import models
from stages.shared.model_config import ModelConfig
from stages.shared.models import Model
from store.errors import DataError


def on_features(student: Model, config: ModelConfig, num_classes: int, seed: int) -> Model:
    """Return the network ``config`` of ``num_classes`` with all of the student but its classifier.

    ``config`` names the student's architecture. Features are what its classifying layers see; these
    layers are drawn from ``seed``, also where the student has as many outputs as there are classes.

    Raises:
        ParamsError: no layer of the network can be told to be its classifier.
        DataError: the student has another shape below its classifier.
    """
    plain = config.model_copy(update={"weights": None, "pretrained": False})
    sized = plain.model_copy(update={"input_size": student.spec.size})
    module = models.build(sized, num_classes, seed=seed).module
    replaced = models.classifier_parameters(module)
    own, given = module.state_dict(), student.module.state_dict()
    features = {name: given.get(name) for name in own.keys() - replaced}
    for name, values in features.items():
        if values is None or values.shape != own[name].shape:
            raise DataError(
                f"the student {config.name} has no {name} of shape {tuple(own[name].shape)}: below "
                "its classifier it must not depend on the number of classes"
            )
    with torch.no_grad():
        for name, values in features.items():
            own[name].copy_(values)
    return Model(module, student.spec, models.weights_digest(module))
