"""The phases of a full-size run: each in fresh processes, timed, with its largest memory.

Building phases skip the shards that are complete under their keys, as the stages do.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks import build, sizes
from benchmarks.fetching import BATCH, CROPS_AN_IMAGE, view_fetch_rate
from benchmarks.measure import AnonymousPeak
from benchmarks.peers.ours import ViewReader, plan, read_part
from benchmarks.synthetic import Synthetic
from ferkd_pipeline import engine, jobs
from ferkd_pipeline import params as params_file
from ferkd_pipeline.params import Params
from stages.calibrate import survey
from stages.calibrate.config import Config as CalibrateConfig
from stages.calibrate.recipe import Recipe
from stages.compress.config import Config as CompressConfig
from stages.compress.core import Predictions
from stages.shared.contract import NoProgress
from store import entries, fit_file, images
from store.check import verify
from store.digest import sha256_json
from store.errors import DataError
from store.layout import Layout, calibrated, part_name

CALIBRATION = "ferkd"
REVISION = "revision"
RECIPES: dict[str, list[dict[str, str]]] = {
    CALIBRATION: [{"step": "ferkd"}],
    REVISION: [{"step": "revise"}, {"step": "ferkd", "preset": "ferkd_share"}],
}
"""Of the overlays that are timed: one by the maximum alone, one that looks at the labels too."""
_COLD_IMAGES = 2048


@dataclass(frozen=True, slots=True)
class Run:
    """What is built, and where."""

    synthetic: Synthetic
    num_shards: int
    out: Path
    num_workers: int

    @property
    def layout(self) -> Layout:
        """The store."""
        return Layout.beside(self.out / "labels")

    @property
    def num_rows(self) -> int:
        """Crops of all images."""
        return self.synthetic.num_images * self.synthetic.num_crops

    def params(self) -> Params:
        """params.yaml of such a store."""
        raw = {
            "store": {"root": str(self.layout.root), "num_shards": self.num_shards},
            "index": {"images": str(self.out / "images")},
            "sample": {"num_crops": self.synthetic.num_crops, "seed": self.synthetic.seed},
            "compress": {},
            "calibrate": RECIPES,
        }
        return params_file.check(self.out / "params.yaml", raw)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process of a phase did."""

    num_rows: int = 0
    """Crops worked on; 0 where all was complete already."""
    seconds: float = 0.0
    """Without the start of the process and its imports."""
    peak_mb: float = 0.0
    """Largest anonymous memory."""
    generate_seconds: float = 0.0
    """Time that went into making synthetic predictions."""
    rate: float = 0.0
    """Of fetches, images a second."""


Work = Callable[[Run, tuple[int, ...]], Usage]


def run_phase(run: Run, work: Work, *, sharded: bool) -> list[Usage]:
    """Usages of a phase's processes; the shards are dealt to them in turn."""
    num_workers = min(run.num_workers, run.num_shards) if sharded else 1
    every = range(run.num_shards)
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imports once, not once a process
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        started = [
            pool.submit(_watched, work, run, tuple(every[number::num_workers]))
            for number in range(num_workers)
        ]
        return [each.result() for each in started]


def _watched(work: Work, run: Run, shards: tuple[int, ...]) -> Usage:
    began = perf_counter()
    with AnonymousPeak() as peak:
        usage = work(run, shards)
    return replace(usage, seconds=perf_counter() - began, peak_mb=peak.mb)


def write_images(run: Run, shards: tuple[int, ...]) -> Usage:
    """The table of images."""
    table = run.synthetic.table()
    found = entries.find_entry(run.layout, "images", images.STEM)
    made_of = {"files": table.digest(0, "paths", "content_hashes")}
    if found is not None and found.lineage.get("inputs") == made_of:
        return Usage()
    build.write_images(run.layout, table)
    return Usage(run.num_rows)


def write_crops(run: Run, shards: tuple[int, ...]) -> Usage:
    """Stage sample."""
    return _stage(run, "sample", shards)


def write_soft(run: Run, shards: tuple[int, ...]) -> Usage:
    """Stage compress over predictions that are made on the way, block by block."""
    layout, config, synthetic = run.layout, CompressConfig(), run.synthetic
    table = images.load(layout)
    num_rows, seconds = 0, 0.0
    for shard in shards:
        start, stop = images.shard_bounds(len(table), run.num_shards, shard)

        def predict(first: int, last: int, start: int = start) -> Predictions:
            nonlocal seconds
            began = perf_counter()
            ranked, _ = synthetic.ranked(start + first, start + last)
            seconds += perf_counter() - began
            return ranked.flat(0, last - first)

        crops = entries.find_entry(layout, "crops", part_name(shard))
        assert crops is not None, "crops come first"
        digest = sha256_json([asdict(synthetic), start, stop])
        own = table.slice(start, stop)
        inputs = build.given_inputs(layout, own, start, crops, predict, digest)
        key = build.soft_writer(config, inputs, layout).key
        if entries.why_incomplete(layout, "soft", part_name(shard), key) is not None:
            build.run_compress(config, inputs, layout)
            num_rows += len(own) * synthetic.num_crops
    return Usage(num_rows, generate_seconds=seconds)


def fit_calibration(run: Run, shards: tuple[int, ...]) -> Usage:
    """The first phase of stage calibrate, both recipes; the manifests of what stands before it."""
    for artifact in ("crops", "soft"):
        entries.write_manifest(run.layout, artifact)
    before = fit_file.read(run.layout, calibrated(CALIBRATION))
    jobs.fit(run.params(), NoProgress())
    is_old = fit_file.read(run.layout, calibrated(CALIBRATION)) == before
    return Usage(0 if is_old else run.num_rows)


def write_calibration(run: Run, shards: tuple[int, ...]) -> Usage:
    """Stage calibrate, FerKD."""
    return _calibrate(run, CALIBRATION, shards)


def write_revision(run: Run, shards: tuple[int, ...]) -> Usage:
    """Stage calibrate, Label Revision with FerKD on top."""
    return _calibrate(run, REVISION, shards)


def _calibrate(run: Run, name: str, shards: tuple[int, ...]) -> Usage:
    values = run.params()
    alone = replace(values, sections={**values.sections, "calibrate": _only(values, name)})
    return _stage(run, "calibrate", shards, alone)


def _only(values: Params, name: str) -> CalibrateConfig:
    config = values.typed("calibrate", CalibrateConfig)
    return CalibrateConfig({name: config.root[name]})


def preview_all(run: Run, shards: tuple[int, ...]) -> Usage:
    """`calibrate preview --all` of FerKD: every crop looked at, nothing written."""
    _preview(run, everything=True)
    return Usage(run.num_rows)


def preview_some(run: Run, shards: tuple[int, ...]) -> Usage:
    """`calibrate preview` of both recipes: what it says after seconds."""
    _preview(run, everything=False)
    return Usage(run.num_rows)


def _preview(run: Run, *, everything: bool) -> None:
    values = run.params()
    names = [CALIBRATION] if everything else list(RECIPES)
    recipes = [Recipe(name, _only(values, name).root[name]) for name in names]
    survey.preview(recipes, jobs.source_of(values), NoProgress(), everything=everything)


def _stage(run: Run, name: str, shards: tuple[int, ...], values: Params | None = None) -> Usage:
    outcome = engine.run_stage(values or run.params(), name, shards, progress=NoProgress())
    done = [each.shard for each in outcome.shards if each.action == "run"]
    sizes_of = [
        images.shard_bounds(run.synthetic.num_images, run.num_shards, shard)
        for shard in done
        if shard is not None
    ]
    num_images = sum(stop - start for start, stop in sizes_of)
    return Usage(num_images * run.synthetic.num_crops)


def build_view(run: Run, shards: tuple[int, ...]) -> Usage:
    """The training view, with the calibration."""
    for name in RECIPES:
        entries.write_manifest(run.layout, calibrated(name))
    known = set(run.layout.view_cache().glob("*/meta.json"))
    view = plan(run.layout, CALIBRATION).open()
    return Usage(0 if view.folder / "meta.json" in known else run.num_rows)


def verify_store(run: Run, shards: tuple[int, ...]) -> Usage:
    """`store verify`. Raises DataError where something is damaged."""
    result = verify.verify(run.layout.root, NoProgress())
    if result.damages:
        raise DataError(f"{result.damages[0].file}: {result.damages[0].kind}")
    return Usage(run.num_rows)


def scan_store(run: Run, shards: tuple[int, ...]) -> Usage:
    """Read every box, flip, class and probability from the Parquet files."""
    num_rows = 0
    for shard in shards:
        num_rows += read_part(run.layout, sizes.soft_entry(run.layout, shard)).flips.size
    return Usage(num_rows)


def fetch_cold(run: Run, shards: tuple[int, ...]) -> Usage:
    """Random fetches from a view of which nothing is in memory."""
    view = plan(run.layout, CALIBRATION).open()
    folder = view.folder
    del view
    for file in folder.iterdir():
        _forget(file)
    reader = _reader(run)
    rng = np.random.default_rng(1)
    num_images = min(_COLD_IMAGES, reader.view.num_images)
    rows = rng.choice(reader.view.num_images, num_images, replace=False)
    crops = rng.integers(0, reader.view.num_crops, (num_images, CROPS_AN_IMAGE))
    began = perf_counter()
    for start in range(0, num_images, BATCH):
        reader.fetch(rows[start : start + BATCH], crops[start : start + BATCH])
    seconds = perf_counter() - began
    return Usage(num_images * CROPS_AN_IMAGE, rate=num_images / seconds)


def fetch_warm(run: Run, shards: tuple[int, ...]) -> Usage:
    """Random fetches from a view that was read once, as far as it fits into memory."""
    reader = _reader(run)
    for file in reader.view.folder.iterdir():
        with file.open("rb", buffering=0) as source:
            while source.read(2**24):
                pass
    rate = view_fetch_rate(reader.view, rounds=5)
    return Usage(run.num_rows, rate=rate)


def _reader(run: Run) -> ViewReader:
    return ViewReader(plan(run.layout, CALIBRATION).open())


def _forget(file: Path) -> None:
    """Ask the kernel to drop a file from its cache; what is dirty is written first."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
