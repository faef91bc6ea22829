"""The teachers of params.yaml, ready to be asked about images outside the label store.

Shapes: B images of a batch, C classes or outputs, (h, w) a teacher's input size.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.infer import teachers
from stages.infer.config import Config
from stages.infer.forward import precisely
from stages.infer.teachers import Teacher, averaged
from stages.shared import devices
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import normalise
from store.errors import DataError, ParamsError


@dataclass(frozen=True, slots=True)
class ClassNames:
    """The classes of the images, where there is no table of images."""

    class_names: tuple[str, ...]
    """Name of class c at place c."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True, slots=True)
class Panel:
    """Teachers on their device."""

    config: Config
    teachers: tuple[Teacher, ...]
    num_outputs: int
    """C: what each must give of an image."""
    device: torch.device

    @classmethod
    def open(cls, config: Config, class_names: tuple[str, ...], listed: Path) -> "Panel":
        """Build the teachers as stage infer does; ``listed`` is where the class names come from.

        Raises:
            ParamsError: no such teacher, no such device, or a precision that it does not do.
            DataError: weights are missing, or a teacher has other classes than ``class_names``.
        """
        device = devices.choose(config.device, "infer.device")
        if config.precision == "fp16" and device.type == "cpu":
            raise ParamsError(
                "infer.precision is fp16, which needs a GPU; allowed on a CPU: float32, bf16"
            )
        num_outputs = config.num_outputs or len(class_names)
        found = teachers.load(config, num_outputs, ClassNames(class_names), listed)
        for teacher in found:
            teacher.model.module.to(memory_format=torch.channels_last)
            teacher.model.module.to(device).eval()
            teacher.model.module.requires_grad_(False)
        return cls(config, found, num_outputs, device)

    def ask(
        self, teacher: Teacher, pixels: Tensor, spec: PixelSpec | None = None, *, bgr: bool = False
    ) -> Tensor:
        """Outputs (B, C) float32 of ``pixels`` (B, 3, h, w) uint8, on the device.

        Normalised as the teacher wants, or by ``spec``; with ``bgr`` blue stands first.

        Raises:
            DataError: the teacher gives another number of outputs.
        """
        spec = spec or teacher.model.spec
        given = normalise(pixels.to(self.device), spec.mean, spec.std)
        with (
            self._not_compiled(),
            torch.inference_mode(),
            precisely(self.config, self.device),
        ):
            outputs: Tensor = teacher.model.module(given.flip(1) if bgr else given)
        outputs = outputs.float()
        if outputs.shape[1:] != (self.num_outputs,):
            found = " x ".join(map(str, outputs.shape[1:]))
            what = "outputs" if self.config.outputs == "projection" else "classes"
            wanted = (
                f"infer.num_outputs is {self.num_outputs}"
                if self.config.outputs == "projection"
                else f"the images have {self.num_outputs}"
            )
            raise DataError(f"{teacher.key}: {teacher.name} gives {found} {what}, {wanted}")
        return outputs

    def _not_compiled(self) -> AbstractContextManager[None]:
        """A network that stage infer compiled for its own batches would compile this shape too."""
        if not self.config.compile:
            return nullcontext()
        eager: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
        return eager

    def average(self, said: Sequence[Tensor]) -> Tensor:
        """Logits (B, C) float32 of the average of all teachers' outputs, as in stage infer."""
        with torch.inference_mode():
            return averaged(self.config, self.teachers, said)

    @property
    def specs(self) -> tuple[PixelSpec, ...]:
        """How each teacher wants its pixels."""
        return tuple(teacher.model.spec for teacher in self.teachers)
