"""Many processes that train one model, each on its part of every step: `torchrun --nproc-per-node W -m mrnn train ...`.

All draw the same batches and hold the same weights; rank r computes the r-th part of a batch, gradients are added, and
every process takes the same step. The lead, rank 0, alone measures dev, writes files and speaks. Gradients travel by
NCCL between GPUs, all else by gloo. One process is the world of size 1, in which nothing travels.

Shapes: B batch, over all ranks.
"""

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

# The lead may encode a data set's photos while the others wait.
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class World:
    """The processes that train one model together, as one of them sees them.

    Args:
        rank: Of this process, from 0.
        size: How many there are.
        device: Where this one computes.
        joined: Whether there are ways between them, as `join` makes them; one process alone needs none.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    joined: bool = False

    @property
    def leads(self) -> bool:
        """Whether this is the process that measures, writes and speaks."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """This rank's rows of n, which are shared out as evenly as can be; of fewer rows than ranks some have none."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def gather(self, own: Float[Tensor, "R F"], n: int) -> Float[Tensor, "B F"]:
        """The rows of all ranks, of which each gives its `part(n)`; the gradient goes to this rank's own alone.

        So of a cost that all ranks compute of all rows alike, the ranks' gradients add up to the whole one.
        """
        if not self.joined:
            return own
        rows = self.part(n)
        # Not in bfloat16, which gloo need not know.
        every = torch.zeros((n, *own.shape[1:]), dtype=torch.promote_types(own.dtype, torch.float32), device=own.device)
        every[rows] = own.detach().to(every)
        dist.all_reduce(every)
        every = every.to(own.dtype)
        return torch.cat([every[: rows.start], own, every[rows.stop :]])

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every rank the sum of all ranks' gradients; what has none on any rank keeps none."""
        if not self.joined:
            return
        parameters = list(parameters)
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # One message; many small ones would each wait for the slowest.
        bucket = torch.cat([there, *(g.flatten() for g in gradients)])
        dist.all_reduce(bucket)
        there, *sums = bucket.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, known, total in zip(parameters, there.tolist(), sums, strict=True):
            parameter.grad = total.view_as(parameter) if known else None

    def add(self, *numbers: float) -> list[float]:
        """Each number summed over the ranks, in double precision; where all others give 0, it is what one has said."""
        if not self.joined:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def told(self, figure: Callable[[], float]) -> float:
        """What the lead finds, which the others wait for."""
        (found,) = self.add(figure() if self.leads else 0.0)
        return found

    def wait(self) -> None:
        """Until all ranks are here."""
        self.add(0.0)

    @contextmanager
    def lead_first(self) -> Generator[None]:
        """The lead goes through the block before all others, who find what it has left on disk."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    @torch.no_grad()
    def share_weights(self, module: nn.Module) -> None:
        """Give every rank the lead's parameters and buffers."""
        if self.joined:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def agree(self, *numbers: int) -> bool:
        """Whether all ranks say the same whole numbers, which are below 2 ** 63."""
        if not self.joined:
            return True
        largest = torch.tensor([*numbers, *(-n for n in numbers)])
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return not largest.view(2, -1).sum(0).any()  # the largest is the smallest

    def agree_on_weights(self, module: nn.Module) -> bool:
        """Whether all ranks hold the same bits, by a sum of each tensor's."""
        if not self.joined:
            return True
        tensors = (tensor.detach().contiguous().flatten() for tensor in module.state_dict().values())
        return self.agree(*(int(tensor.view(torch.int32).sum(dtype=torch.int64)) for tensor in tensors))

    def draw_anew(self, seed: int, epoch: int) -> None:
        """Seed this rank's random numbers for an epoch, by seed, epoch and rank.

        The lead's go on, as those of a process alone: a checkpoint holds them.
        """
        if not self.leads:
            torch.manual_seed((seed * 1_000_003 + epoch) * self.size + self.rank)


ALONE = World()


@contextmanager
def join(device: str) -> Generator[World]:
    """The world that this process was started into, by the variables that torchrun sets; without them it is alone.

    Args:
        device: `cpu`, or `cuda`, of which each process of a machine takes its own.

    Raises:
        ValueError: Processes cannot share this device, or there are more of them than GPUs.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        yield World(device=device)
        return
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device not in ("cpu", "cuda"):
        raise ValueError(f"processes that torchrun starts compute on cpu or cuda, not on {device}")
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"torchrun started more processes than this machine has GPUs: at most --nproc-per-node "
                f"{torch.cuda.device_count()}, or --device cpu"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
    world = World(rank, size, device, joined=True)
    yield world
    # After an error the process ends, and torchrun ends the others: nothing is waited for.
    world.wait()
    dist.destroy_process_group()
