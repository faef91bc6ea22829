"""What only a GPU shows. Skipped where there is none."""

import shutil

import numpy as np
import pytest
import torch

from tests.world import Project

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_predictions_are_those_of_the_cpu(own: Project) -> None:
    on_cpu = own.predictions()
    own.run("infer", infer={"device": "cuda"})
    on_gpu = own.predictions()
    assert own.entry("predictions", 0).lineage["inputs"]["device"] == "cuda"
    np.testing.assert_allclose(on_gpu["logsumexp"], on_cpu["logsumexp"], rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(
        on_gpu["logp"].astype(np.float32), on_cpu["logp"].astype(np.float32), rtol=2e-2, atol=2e-2
    )


def test_shard_borders_change_no_prediction(own: Project) -> None:
    own.run("infer", infer={"device": "cuda"})
    three = own.predictions()
    for folder in ("labels/predictions", ".ferkd"):  # nothing may be copied
        shutil.rmtree(folder)
    own.run("sample", "infer", store={"num_shards": 1}, infer={"device": "cuda", "batch_size": 8})
    one = own.predictions(num_shards=1)
    for name in three:
        np.testing.assert_array_equal(three[name], one[name], err_msg=name)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_close(own: Project, precision: str) -> None:
    exact = own.predictions()["logsumexp"]
    own.run("infer", infer={"device": "cuda", "precision": precision})
    rounded = own.predictions()["logsumexp"]
    assert np.isfinite(rounded).all()
    assert np.median(np.abs(rounded - exact)) < 0.2
