"""Several processes train what one would have trained: real ones, started by torchrun."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.shared.training.ranks import Ranks

WORLD = """
import sys
from pathlib import Path
import torch
from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.model_config import ModelConfig
from stages.shared.training.batches import StoredCrops
from stages.shared.training.config import LearnerConfig
from stages.shared.training.ranks import Ranks
from stages.shared.training.trainer import Trainer
from tests.stages.training_world import NETWORK, FakeView, image_table

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
view = FakeView(folder, image_table(folder))
network = {**NETWORK, "model_kwargs": {**NETWORK["model_kwargs"], "norm_layer": "groupnorm1"}}
ranks = Ranks.join("cpu", "train.device")
found = {}
for name, fields in {
    "plain": {},
    "mixup": {"mix": "mixup"},
    "selfmix": {"mix": "selfmix", "ema_decay": 0.9},
    "cutmix": {"mix": "cutmix", "truth_weight": 0.5, "erase_probability": 0.5},
    "parts": {"accumulate": 3, "clip_grad": 0.5},
}.items():
    config = LearnerConfig(
        model=ModelConfig(**network), batch_size=24, crops_per_image=2, steps=4, lr=0.01,
        device="cpu", optimizer="sgd", seed=3, **fields,
    )
    model = models.build(config.model, 3, seed=3)
    trainer = Trainer(model.module, model.spec, StoredCrops(view, 3), config, ranks=ranks)
    trainer.advance(4, NoProgress())
    found[name] = (trainer.history.losses, dict(trainer.measured.state_dict()))
if ranks.is_first:
    torch.save(found, out)
"""


def run(script: Path, folder: Path, out: Path, count: int) -> dict[str, Any]:
    launcher = [] if count == 1 else [
        "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(folder), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = torch.load(out, weights_only=True)
    return found


def test_the_number_of_processes_changes_no_step(tmp_path: Path) -> None:
    from tests.stages.training_world import write_images

    write_images(tmp_path / "images", num_per_class=8)
    script = tmp_path / "train.py"
    script.write_text(WORLD)
    one = run(script, tmp_path / "images", tmp_path / "one.pt", 1)
    two = run(script, tmp_path / "images", tmp_path / "two.pt", 2)
    assert one.keys() == two.keys()
    for name in one:
        losses, weights = one[name]
        found, others = two[name]
        assert found == pytest.approx(losses, rel=1e-4), name
        for key, value in weights.items():
            torch.testing.assert_close(
                others[key], value, rtol=1e-3, atol=1e-5, msg=f"{name} {key}"
            )


def test_alone_there_is_nobody_to_wait_for() -> None:
    ranks = Ranks.join("cpu", "train.device")
    assert ranks == Ranks()
    assert ranks.is_first
    own = torch.arange(3)
    assert ranks.gather(own) is own
    assert ranks.mean(own) is own
    assert ranks.told(True)
    with ranks.in_turn():
        ranks.wait()
