"""The stages that make data, scores and measurements."""

from pathlib import Path
from typing import Any

from ferkd_pipeline import fingerprints, own_code
from ferkd_pipeline.params import Params
from ferkd_pipeline.whole.common import images_folder, layout_of, optional
from ferkd_pipeline.whole.start import METRICS, MODELS, Start, Whole
from stages.shared.contract import Json, Report
from store import images, upstream

DIGITS = Path("data/digits")


def digits(params: Params) -> Whole:
    """Makes the embedded data set."""
    from stages.digits import run as stage
    from stages.digits.config import Config

    config = params.typed("digits", Config)
    return Whole("none", (DIGITS,), lambda start: stage.run(config, DIGITS, start.progress))


def index(params: Params) -> Whole:
    """Looks at every image: what it read shows only then."""
    from stages.index import run as stage
    from stages.index.config import Config

    config = params.typed("index", Config)
    layout = layout_of(params)
    inputs = stage.Inputs(images_folder(params))
    return Whole(None, (), lambda start: stage.run(config, inputs, layout, start.progress))


def score(params: Params) -> Whole:
    """Scores images; every score has a key of its own."""
    from stages.score import run as stage
    from stages.score.config import Config

    config = params.typed("score", Config)
    layout = layout_of(params)
    table = images.load(layout)
    read = {name: _read_by(name, each) for name, each in config.root.items()}
    shards = range(params.store.num_shards) if config.reads_labels else ()
    labels = [upstream.require_labels(layout, table, len(shards), shard)[1] for shard in shards]
    inputs = stage.Inputs(table, images_folder(params), tuple(labels), read)
    keys = {name: writer.key for name, writer in stage.writers(config, inputs, layout).items()}

    def run(start: Start) -> Report:
        return stage.run(config, inputs, layout, start.progress, force=start.force)

    return Whole({**keys}, (layout.folder(stage.ARTIFACT),), run)


def _read_by(name: str, settings: Any) -> dict[str, Json]:
    """What scores depend on besides images and labels, where they do."""
    read: dict[str, Json] = {}
    folder = optional(getattr(settings, "evaluation", None))
    if folder is not None:
        read["evaluation"] = fingerprints.of_folder(folder, f"score.{name}.evaluation")
    if hasattr(settings, "proxy"):
        read["weights"] = fingerprints.of_network(settings.proxy.model)
        read["device"] = fingerprints.device_kind(settings.proxy.device)
    return read


def evaluate(params: Params) -> Whole:
    """Measures the student on named sets."""
    from stages.evaluate import run as stage
    from stages.evaluate.config import Config

    config = params.typed("evaluate", Config)
    model, output = MODELS / "student", METRICS / "evaluate"
    own_code.check(model, params)
    sets = {name: Path(folder) for name, folder in config.folders().items()}
    labels = {name: Path(file) for name, file in config.label_files().items()}
    inputs = stage.Inputs(model, sets, labels)
    fingerprint: dict[str, Json] = {
        "model": fingerprints.of_saved(model),
        "sets": {
            name: fingerprints.of_folder(folder, f"evaluate.sets.{name}")
            for name, folder in sets.items()
        },
        "device": fingerprints.device_kind(config.device),
    }
    if labels:
        fingerprint["labels"] = {
            name: fingerprints.of_file(file, f"evaluate.sets.{name}.real")
            for name, file in labels.items()
        }
    return Whole(
        fingerprint, (output,), lambda start: stage.run(config, inputs, output, start.progress)
    )
