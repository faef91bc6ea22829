"""What a shard's crops are mixed with, for those who make their pixels.

Shapes: N images of the shard, M crops an image, P crops asked for, J of them mixed, h and w a
teacher's input size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.shared.images import ImageError
from stages.shared.mixed import mix_crops, partners_of
from stages.shared.pixels import Interpolation, crop_resize
from store.batch import RecordedMix
from store.images import ImageTable


@dataclass(frozen=True, slots=True)
class Mixed:
    """The recorded mixing of a shard, and the images that it takes."""

    mix: RecordedMix
    """(N, M)."""
    rows: NDArray[np.int64]
    """(N, M) where each crop's partner stands in ``images``; -1 where it has none."""
    images: ImageTable
    """Those of the shard, and behind them the partners from other shards."""

    @classmethod
    def of(cls, mix: RecordedMix, first: int, stop: int, everyone: ImageTable) -> Self:
        """Of a shard that holds images ``first`` to ``stop`` (exclusive) of ``everyone``."""
        ids = mix.partner_ids.astype(np.int64)
        is_elsewhere = (ids >= 0) & ((ids < first) | (ids >= stop))
        elsewhere = np.unique(ids[is_elsewhere])
        rows = np.where(ids >= 0, ids - first, -1)
        rows[is_elsewhere] = stop - first + np.searchsorted(elsewhere, ids[is_elsewhere])
        taken = np.concatenate([np.arange(first, stop), elsewhere])
        return cls(mix, rows, everyone.take(taken))

    def first(self, num_images: int) -> "Mixed":
        """Of the first images' crops alone."""
        cut = slice(num_images)
        return replace(self, mix=self.mix.at(cut), rows=self.rows[cut])

    def of_crops(self, rows: NDArray[np.int64]) -> tuple[RecordedMix, NDArray[np.int64]]:
        """How crops ``rows`` (P, 2) are mixed, (P,), and the images that J of them take, (J,)."""
        at = rows[:, 0], rows[:, 1]
        partners = self.rows[at]
        return self.mix.at(at), partners[partners >= 0]

    def because_of(self, partner: int, reason: str) -> str:
        """Return why an image cannot be used that is mixed with one that cannot be used."""
        return f"a crop of it is mixed with {self.images.paths[partner]}: {reason}"

    def names(self, partner: int, reason: str) -> bool:
        """Whether a reason is `because_of` this partner."""
        return reason.startswith(self.because_of(partner, ""))

    def failed_of(self, rows: NDArray[np.int64], failed: dict[int, str]) -> dict[int, str]:
        """Which own images of crops ``rows`` (P, 2) cannot be used, where ``failed`` cannot."""
        found: dict[int, str] = {}
        for image, partner in zip(
            rows[:, 0].tolist(), self.rows[tuple(rows.T)].tolist(), strict=True
        ):
            if image in failed:
                found[image] = failed[image]
            elif partner in failed:
                found.setdefault(image, self.because_of(partner, failed[partner]))
        return found

    def main_classes(self, start: int, stop: int) -> NDArray[np.int32]:
        """The class (images, M) that has the larger share of crops of images start to stop."""
        cut = slice(start, stop)
        own = self.images.class_ids[cut, None]
        partners = self.images.class_ids[np.maximum(self.rows[cut], 0)]
        return np.where(self.mix.shares[cut] >= 0.5, own, partners)

    def mix_in(
        self,
        rows: NDArray[np.int64],
        decoded: Callable[[int], Tensor],
        out: Mapping[tuple[tuple[int, int], Interpolation], Tensor],
    ) -> None:
        """Mix crops ``rows`` (P, 2) with what images ``decoded`` show, each asked for once.

        ``out`` holds them (P, 3, h, w) by size and interpolation.

        Raises:
            ImageError: one of these images cannot be used.
        """
        mix, partners = self.of_crops(rows)
        of_mixed = partners_of(mix)
        others = {
            key: torch.empty((len(partners), *pixels.shape[1:]), dtype=torch.uint8).contiguous(
                memory_format=torch.channels_last
            )
            for key, pixels in out.items()
        }
        for partner in dict.fromkeys(partners.tolist()):
            numbers = np.flatnonzero(partners == partner)
            image = self._image(partner, decoded)
            boxes, flips = of_mixed.boxes[numbers], of_mixed.flips[numbers]
            for (size, interpolation), pixels in others.items():
                pixels[numbers] = crop_resize(image, boxes, flips, size, interpolation)
        for key, pixels in out.items():
            mix_crops(pixels, others[key], mix)

    def _image(self, partner: int, decoded: Callable[[int], Tensor]) -> Tensor:
        try:
            return decoded(partner)
        except ImageError as error:
            raise ImageError(self.because_of(partner, str(error))) from None
