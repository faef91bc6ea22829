"""The store for notebooks: tables as pandas frames or Arrow, joined where people want it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import entries
from store.errors import ParamsError
from store.inspection.statistics_sums import lower_edge
from store.notebook import arguments, decoding, summary
from store.notebook.frames import Frames
from store.soft_part import SoftPart

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class LabelStore(Frames):
    """One label store on disk, read-only.

    >>> store = LabelStore("labels")
    >>> store.labels(3, calibration="ferkd")    # path, class, box, label, action: a row a crop
    >>> store.show(0)                           # a picture of image 0, its crops and labels

    Tables are pandas frames, or Arrow with ``arrow=True``. Columns are as stored; names that go
    with numbers stand beside them (``class_name``, ``target_name``, ``action_name``). Where no
    shard is given a table has the rows of all, up to `store.notebook.frames.MAX_ROWS`; for more see
    `dataset` and `batches`.
    """

    def __init__(self, root: str | Path, *, images: str | Path | None = None) -> None:
        """Open the store at ``root``; nothing is read yet.

        Args:
            root: the folder, such as ``labels``.
            images: folder of the image files, for `show`. A store holds no path to it. Left out:
                ``index.images`` of the ``params.yaml`` beside the store.
        """
        super().__init__(root)
        self._images_folder = None if images is None else Path(images)

    def decode(
        self, rows: "pd.DataFrame | pa.Table | int", *, calibrated: bool = False
    ) -> "pd.DataFrame":
        """Probabilities (N, C) of ``rows``: a column a class, by name, and the index of ``rows``.

        Args:
            rows: rows of `labels`, `soft` or `image`, or the number of a small shard.
            calibrated: the label that training uses, not the teacher's; rows of
                ``labels(shard, calibration=...)`` have what it takes.

        Raises:
            ParamsError: too many rows, or they lack columns.
            DataError: labels of kind logits have no probabilities.
        """
        import pandas as pd

        table, index = self._given_rows(rows)
        probs = decoding.decode(self._tables, table, calibrated=calibrated)
        return pd.DataFrame(probs, columns=list(self.classes), index=index)

    def top(
        self, rows: "pd.DataFrame | pa.Table | int", num: int = 5, *, calibrated: bool = False
    ) -> "pd.DataFrame":
        """The ``num`` most probable classes of ``rows`` by name: name_0, prob_0, name_1, ..."""
        import pandas as pd

        num = arguments.positive("num", num)
        table, index = self._given_rows(rows)
        probs = decoding.decode(self._tables, table, calibrated=calibrated)
        ids, values = decoding.rank(probs, num)
        columns: dict[str, Any] = {}
        names = pd.Index(self.classes)
        for k in range(ids.shape[1]):
            columns[f"name_{k}"] = pd.Categorical.from_codes(ids[:, k], names)
            columns[f"prob_{k}"] = values[:, k]
        return pd.DataFrame(columns, index=index)

    def show(
        self,
        image: int | str,
        crops: int | np.integer | Sequence[int] = 5,
        calibration: str | None = None,
        images: str | Path | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> "Figure":
        """Picture one image, chosen crops of it as a model sees them, and their labels.

        Args:
            image: id or path.
            crops: how many, from the hardest to the easiest by maximum probability; or which.
            calibration: name of one, to show what it does to these labels.
            images: folder of the image files; see `LabelStore`.
            size: height and width that crops are resized to, or the side of a square; left out:
                the teacher's, where predictions record it, else 224.

        Returns:
            A matplotlib figure. Notebooks show it; ``.savefig("image.png")`` writes it.

        Raises:
            DataError: the image is unknown, its file is missing or is not the labelled one.
            ParamsError: a crop does not exist, too many are asked for, or the size is none.
        """
        from store.notebook import picture_inputs, pictures

        self._require(calibration)
        seen_size = None if size is None else arguments.size(size)
        picture = picture_inputs.gather(
            self._tables, image, crops, calibration, images or self._images_folder, seen_size
        )
        return pictures.draw(picture)

    def max_prob_counts(self, num_bins: int = 20) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Histogram of the maximum probability of all crops: edges (bins + 1,), counts (bins,).

        A value on an edge is in the bin above it, 1 in the last: also where the edge is stored
        rounded. Rejected crops do not count, nor do shards without labels.

        Raises:
            DataError: there are no labels, or they have no maxima (kind logits).
        """
        decoding.label_spec(self._tables)
        num_bins = arguments.positive("num_bins", num_bins)
        edges = np.arange(num_bins + 1) / num_bins
        counts = np.zeros(num_bins, np.int64)
        for entry in entries.list_entries(self.layout, "soft"):
            part = SoftPart(self.layout, entry)
            precision = entry.attributes.get("precision", part.spec.precision)
            stored = np.array([lower_edge(edge, precision) for edge in edges[1:-1]], np.float32)
            values = part.max_prob()
            places = np.searchsorted(stored, values[~np.isnan(values)], side="right")
            counts += np.bincount(places, minlength=num_bins)
        return edges, counts

    def __repr__(self) -> str:
        return "\n".join(summary.lines(self.layout.root))

    def _repr_html_(self) -> str:
        return summary.html(self.layout.root)

    def _given_rows(self, rows: "pd.DataFrame | pa.Table | int") -> tuple[pa.Table, Any]:
        """Rows as Arrow and their index as pandas has it, or None."""
        import pandas as pd

        if isinstance(rows, pa.Table):
            return rows, None
        if not isinstance(rows, pd.DataFrame):
            if not isinstance(rows, int | np.integer) or isinstance(rows, bool):
                raise ParamsError(
                    f"rows are a {type(rows).__name__}, allowed: a table of store.labels(), "
                    "store.soft() or store.image() with all its columns, or the number of a shard"
                )
            return self.soft(int(rows), arrow=True), None
        return pa.Table.from_pandas(rows, preserve_index=False), rows.index
