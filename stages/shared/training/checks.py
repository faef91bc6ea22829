"""What does not go together in a training, told before its first step."""

from stages.shared.model_config import PixelSpec
from stages.shared.training.batches import CropView
from stages.shared.training.config import TrainingConfig
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.ranks import Ranks
from store.errors import ParamsError


def check_temperature(config: TrainingConfig, view: CropView) -> None:
    """Refuse to train at a temperature that the view's labels were not stored at.

    Raises:
        ParamsError: the two differ, or the labels mix teacher and ground truth (a calibration).
    """
    stored = view.meta.label.temperature
    if config.temperature_on == "student":
        if stored != 1:
            raise ParamsError(
                f"the labels were stored at temperature {stored:g} (compress.temperature), allowed "
                "with train.temperature_on student: 1"
            )
        return
    if config.temperature != stored:
        raise ParamsError(
            f"train.temperature is {config.temperature:g}, but the labels were stored at "
            f"{stored:g} (compress.temperature); set both alike"
        )
    if view.meta.calibration is not None and stored != 1:
        raise ParamsError(
            f"train.temperature is {stored:g}, allowed with the calibration "
            f"{view.meta.calibration}: 1, since its labels mix teacher and ground truth"
        )


def check_classes(key: str, value: str, view: CropView) -> None:
    """Refuse ground truth and online teachers on a store whose labels are no classes.

    Raises:
        ParamsError: its labels are a teacher's projections; names the ``key`` and its ``value``.
    """
    if view.meta.label.kind == "logits":
        raise ParamsError(
            f"{key} is {value}, but the store's labels are projections (compress.kind logits), "
            "whose number is not that of the classes; set train.crops for fresh ones, or use "
            "another store"
        )


def check_loss(config: TrainingConfig, view: CropView) -> None:
    """Refuse a loss that the view's kind of labels cannot give.

    Raises:
        ParamsError: mse without a probability of every class; projection for labels that are
            probabilities, or another loss for labels that are none.
    """
    kind = view.meta.label.kind
    if (config.loss == "projection") != (kind == "logits"):
        raise ParamsError(
            f"train.loss is {config.loss}, but compress.kind is {kind}; labels of kind logits are "
            "learned with loss projection, all others with another loss"
        )
    if config.loss == "mse" and kind != "full":
        raise ParamsError(
            f"train.loss is mse, which needs a probability of every class, but compress.kind is "
            f"{kind}; set compress.kind to full, or train.loss to cross_entropy or kl"
        )


def check_mix(config: TrainingConfig, view: CropView) -> None:
    """Refuse to mix crops that the store mixed already.

    Raises:
        ParamsError: both are asked for.
    """
    if config.mix != "none" and view.meta.record.has_mix:
        raise ParamsError(
            f"train.mix is {config.mix}, but the store's crops are mixed already (sample.mix); set "
            "train.mix to none, or use a store without"
        )


def check_teacher(teacher: OnlineTeacher | None, spec: PixelSpec, config: TrainingConfig) -> None:
    """Refuse to mix crops for a student and an online teacher of different input sizes.

    Raises:
        ParamsError: a box in the crops of one would be another box in the other's.
    """
    if teacher is not None and config.mix != "none" and teacher.model.spec.size != spec.size:
        raise ParamsError(
            f"mix is {config.mix} with an online teacher of input size "
            f"{_by(teacher.model.spec.size)}, but the student's is {_by(spec.size)}; set "
            "model.input_size alike, or mix to none"
        )


def check_parts(config: TrainingConfig, ranks: Ranks) -> None:
    """Refuse a step whose images cannot be divided alike.

    Raises:
        ParamsError: the images are no multiple of processes times parts.
    """
    num_parts = ranks.count * config.accumulate
    if config.images_per_step % num_parts:
        raise ParamsError(
            f"batch_size is {config.batch_size}, which is {config.images_per_step} images of "
            f"{config.crops_per_image} crops: {ranks.count} processes of {config.accumulate} parts "
            "each cannot share them alike; change batch_size, accumulate or the processes"
        )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
