"""Everything that `benchmarks/store.py` measures, at one setting: the product's defaults."""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import arrays, build, fetching, formats, measure, rates, report, sizes, worker
from benchmarks.arrays import Labels, Ranked, Reader
from benchmarks.peers.ours import StoreScanner, ViewReader, plan
from benchmarks.synthetic import Synthetic
from stages.compress.config import Config
from store.errors import FerkdError
from store.layout import Layout
from store.soft_part import SoftPart

_RANKED = 16
"""Classes that the predictions in Zarr rank."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit code."""
    given = _parser().parse_args(argv)
    measure.pin_to_one_core()
    try:
        with _folder(given.keep) as folder:
            found = run(folder, given)
    except (FerkdError, OSError, ValueError) as error:
        print(f"benchmarks/store.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1) if given.json else report.store_tables(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/store.py",
        description="Size and speed of the label store beside other formats, on one core.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--labels", type=Path, help=".npz of box, flip, ids, p, gt to use")
    parser.add_argument("--keep", type=Path, help="keep the store that is written, in this folder")
    parser.add_argument("--images", type=int, default=4000, help="synthetic images (%(default)s)")
    parser.add_argument("--crops", type=int, default=200, help="crops of each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="the best counts (%(default)s)")
    parser.add_argument(
        "--store", type=Path, help="folder of benchmarks/full_size.py, whose view is read"
    )
    return parser


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where the store is written: a folder that is kept, or one that is not."""
    if keep is not None:
        if (keep / "labels").exists():
            raise FileExistsError(f"{keep / 'labels'} exists already; name another folder")
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="ferkd-bench-") as folder:
        yield Path(folder)


def run(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Write the store below ``folder`` and measure; other formats lie in a folder of their own."""
    labels, ranked = _labels(given)
    config = Config()
    config = config.model_copy(update={"k": min(config.k, labels.k)})
    layout = Layout.beside(folder / "labels")
    _say("writing the store")
    build.write_store(layout, labels, ranked, config)
    spec = SoftPart(layout, sizes.soft_entry(layout)).spec
    stored = sizes.read_stored(layout, labels)
    mean_kl, max_kl = sizes.divergence(spec, labels, stored)
    with tempfile.TemporaryDirectory(prefix="ferkd-bench-") as beside:
        scratch = Path(beside)
        found = {
            "num_images": labels.num_images,
            "num_crops": labels.num_crops,
            "num_ranked": ranked.topk_class.shape[2],
            "k": config.k,
            "precision": config.precision,
            **sizes.store_bytes(layout),
            "mean_kl": mean_kl,
            "max_kl": max_kl,
            **_formats(layout, stored, given, scratch),
            **_rates(layout, labels, ranked, config, given, scratch),
            "columns": sizes.columns_per_crop(layout),
            "machine": measure.machine(),
        }
    return found


def _labels(given: argparse.Namespace) -> tuple[Labels, Ranked]:
    """Labels of the K classes that the store keeps, and predictions that may rank more."""
    if given.labels is not None:
        labels = arrays.load(given.labels)
        ranked = arrays.ranked_of(labels)
    else:
        labels, ranked = Synthetic(given.images, given.crops, num_ranked=_RANKED).labels()
    return labels.first(Config().k), ranked


def _formats(
    layout: Layout, stored: Labels, given: argparse.Namespace, scratch: Path
) -> dict[str, Any]:
    _say("writing the other formats")
    small = plan(layout).open()
    readers: dict[str, Reader] = formats.write_peers(scratch, stored)
    num_bytes = {name: measure.folder_bytes(scratch / name) for name in readers}
    readers["view"] = ViewReader(small)
    num_bytes["view"] = measure.folder_bytes(small.folder)
    num_bytes["store"] = sum(measure.folder_bytes(layout.folder(n)) for n in ("crops", "soft"))
    formats.check(readers, stored)
    _say("fetching and scanning")
    figures = formats.measure(readers, {"store": StoreScanner(layout)}, stored, given.rounds)
    peers = {
        name: {"bytes_per_crop": num_bytes[name] / stored.num_rows, **each}
        for name, each in figures.items()
    }
    other = _other_store(given.store)
    view, rate = small, figures["view"]["fetch_rate"]
    if other is not None:
        view = plan(*other).open()
        rate = fetching.view_fetch_rate(view, given.rounds)
    reference = figures["reference"]["fetch_rate"]
    assert rate is not None and reference is not None, "both can fetch"
    return {
        "fetch_ratio": rate / reference,
        "fetch_rate": rate,
        **fetching.draw_rates(view, given.rounds),
        **worker.run(*(other or (layout, None))),
        "view_num_images": view.num_images,
        "num_images": stored.num_images,
        "peers": peers,
    }


def _other_store(folder: Path | None) -> tuple[Layout, str] | None:
    return None if folder is None else (Layout.beside(folder / "labels"), rates.FERKD.name)


def _rates(
    layout: Layout,
    labels: Labels,
    ranked: Ranked,
    config: Config,
    given: argparse.Namespace,
    scratch: Path,
) -> dict[str, float]:
    _say("compressing and calibrating")
    return {
        **rates.compress_rates(layout, labels, ranked, config, scratch, given.rounds),
        **rates.calibrate_rates(layout, scratch, given.rounds),
    }


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)
