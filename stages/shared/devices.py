"""Which device a stage computes on."""

import torch

from stages.shared import processes
from store.errors import ParamsError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of mixed precision by their names in params.yaml; float32 is none of them."""


def choose(name: str, key: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` stands for here.

    Of several processes on one machine, each takes a GPU of its own and makes it the current one:
    process i the i-th that it sees, or the only one, as where a cluster shows each task its own.

    Args:
        name: as params.yaml has it.
        key: where params.yaml has it, for the message: ``infer.device``.

    Raises:
        ParamsError: it is cuda, and there is no usable GPU; or fewer than processes.
    """
    usable = torch.cuda.is_available()
    if name == "cuda" and not usable:
        raise ParamsError(f"{key} is cuda, but no GPU is usable here; allowed: auto, cpu")
    if not usable or name == "cpu":
        return torch.device("cpu")
    rank, num_gpus = processes.local_rank(), torch.cuda.device_count()
    if rank is None or num_gpus == 1:
        return torch.device("cuda")
    if rank >= num_gpus:
        raise ParamsError(
            f"{key} is {name}, but this is process {rank} (from 0 on) of a machine with {num_gpus} "
            "usable GPUs; start one process a GPU, or allow it cpu"
        )
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)
