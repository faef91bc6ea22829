"""The processes that train one network together, one GPU each, as torchrun starts them.

R ranks. A step is the same whatever R is: every rank takes its part of the step's images, and the
gradient is the mean over all of them. Started alone, R is 1 and nothing here does anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState
from torch import distributed

from stages.shared import devices, processes

_TIMEOUT = timedelta(days=1)
"""Others wait while the first builds a view or evaluates, and torchrun ends them if one dies."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1
    """R."""
    local: int = 0
    """Rank among the processes of this host."""
    device: torch.device | None = None
    """What this process computes on; None: as it likes, it is alone."""

    @classmethod
    def join(cls, device: str, key: str) -> "Ranks":
        """Meet the other processes; ``device`` is auto, cpu or cuda, as the parameter ``key`` says.

        Raises:
            ParamsError: there is no such device here.
        """
        if processes.count() == 1:
            return cls()
        kind = devices.choose(device, key).type
        state = PartialState(cpu=kind == "cpu", timeout=_TIMEOUT)
        return cls(
            state.process_index, state.num_processes, state.local_process_index, state.device
        )

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, measures and talks."""
        return self.rank == 0

    def part(self) -> tuple[int, int]:
        """Return which part of a step's images is this rank's: (rank, R)."""
        return self.rank, self.count

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """Return the ranks' tensors, all of one shape, one after the other along the first axis."""
        if self.count == 1:
            return own
        # Without the memory format, which would make the parts different buffers.
        flat = own.contiguous()
        parts = [torch.empty_like(flat) for _ in range(self.count)]
        distributed.all_gather(parts, flat)
        return torch.cat(parts)

    def mean(self, own: torch.Tensor) -> torch.Tensor:
        """Return the mean of the ranks' tensors."""
        if self.count == 1:
            return own
        total = own.clone()
        distributed.all_reduce(total)
        return total / self.count

    def told(self, word: bool) -> bool:
        """Return what the first rank says; the others' ``word`` does not matter. All must ask."""
        return bool(self.told_number(int(word)))

    def told_number(self, number: int) -> int:
        """Return the first rank's ``number``, as `told` does."""
        if self.count == 1:
            return number
        said = torch.tensor(number, device=self.device)
        distributed.broadcast(said, 0)
        return int(said)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.count > 1:
            self.told(True)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Run the block on the first rank, then on the first of every other host, then on the rest.

        What a host needs once (the training view) is made by one process and found by the others.
        """
        turn = 0 if self.is_first else 1 if self.local == 0 else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(2 - turn):
            self.wait()
