"""Several processes that share one job: which is which, sums over them, and how they are started.

Each of them holds one device and takes a part of every batch. What they add up comes to all of them as the
same numbers; one process alone gives those to rounding.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch import multiprocessing as mp

from moediff.core import preemption
from moediff.core.errors import UserError

BUCKET = 1 << 26  # numbers that are summed at once: a copy of so many is held


@dataclass(frozen=True)
class Ranks:
    """One of `count` processes, by its number. Alone, everything here leaves its argument as it is."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def bounds(self, count: int) -> tuple[int, int]:
        """Where its stretch of so many rows begins and ends; the stretches follow on each other."""
        return self.rank * count // self.count, (self.rank + 1) * count // self.count

    def part(self, rows: np.ndarray) -> np.ndarray:
        """Its stretch of `rows` [row]."""
        return rows[slice(*self.bounds(len(rows)))]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over all ranks, in place: every rank has the same list of shapes."""
        if self.count == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            distributed.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, whole in zip(bucket, parts, strict=True):
                tensor.copy_(whole.view_as(tensor))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up gradients; one that only some ranks have is 0 on the others."""
        if self.count == 1:
            return
        every = list(parameters)
        reached = self.summed(np.array([p.grad is not None for p in every], np.float64))
        found = []
        for parameter, ranks in zip(every, reached, strict=True):
            if ranks:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                found.append(parameter.grad)
        self.sum_(found)

    def summed(self, values: np.ndarray) -> np.ndarray:
        """The sum over ranks of float64 numbers."""
        if self.count == 1:
            return values
        device = (
            f"cuda:{torch.cuda.current_device()}" if distributed.get_backend() == "nccl" else "cpu"
        )
        total = torch.from_numpy(np.array(values, np.float64)).to(device)
        distributed.all_reduce(total)
        return total.cpu().numpy()

    def total(self, value: float) -> float:
        """The sum over ranks of a number."""
        return float(self.summed(np.array([value], np.float64))[0])

    def each(self, value: float) -> np.ndarray:
        """Of every rank its number, [rank]."""
        return self.summed(np.eye(self.count)[self.rank] * value)

    def least(self, value: float) -> float:
        """The least over ranks of numbers that are not 0; 0 where all are."""
        every = self.each(value)
        return float(every[every > 0].min()) if (every > 0).any() else 0.0

    def gathered(self, values: Tensor) -> list[Tensor]:
        """Of every rank its numbers [n], of one type, as many as it has; on every rank."""
        if self.count == 1:
            return [values]
        counts = self.each(len(values)).astype(int)
        padded = values.new_zeros(int(counts.max()))
        padded[: len(values)] = values
        found = [torch.empty_like(padded) for _ in range(self.count)]
        distributed.all_gather(found, padded)
        return [part[:count] for part, count in zip(found, counts.tolist(), strict=True)]

    def any(self, true: bool) -> bool:
        """Whether it is true of one of the ranks."""
        return true if self.count == 1 else bool(self.summed(np.array([float(true)]))[0])

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.count > 1:
            distributed.barrier()

    def holding_signals(self) -> AbstractContextManager:
        """Within it a rank that is told to end waits until all have heard of it, in `leave_together`."""
        return preemption.whole_step() if self.count > 1 else nullcontext()

    def leave_together(self) -> None:
        """Raise `Preempted` on every rank where one has been told to end."""
        if self.count > 1 and self.any(preemption.waiting() is not None):
            raise preemption.Preempted(signal.SIGTERM)


ALONE = Ranks()


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Tensors of one type each, BUCKET numbers or one tensor at a time."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        held = sum(one.numel() for one in bucket)
        if bucket and (held + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each rank holds a part, put together on every rank; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """Of a whole tensor what a rank holds, where it holds a part of `parameter`; else all, on its device."""
    if not hasattr(parameter, "placements"):
        return value.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor  # slow to import, and few need it

    there: Any = parameter  # a DTensor
    return distribute_tensor(value.to(there.device), there.device_mesh, there.placements)


def together(count: int, function: Callable[..., None], *given: Any) -> None:
    """Run `function(*given, ranks=...)` in `count` processes; in this one alone where it is 1.

    `function` is one of a module, and what it is given can be sent. Raises UserError with the first line of a
    rank that ends by one, and where a rank is killed; the others are then ended too.
    """
    if count == 1:
        return function(*given, ranks=ALONE)
    said = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="moediff-ranks-") as folder:
        threads = max(1, torch.get_num_threads() // count)
        place = f"file://{Path(folder) / 'meeting'}"
        log = logging.getLogger("moediff")
        files = [one.baseFilename for one in log.handlers if isinstance(one, logging.FileHandler)]
        begin = (count, place, threads, (log.level, files), said, function, given)
        with preemption.whole_step(), _no_script():  # all are there, or none
            ranks = mp.start_processes(_enter, begin, count, join=False, start_method="spawn")
        try:
            while not ranks.join():
                pass
        except preemption.Preempted:
            for process in ranks.processes:
                process.terminate()
            for process in ranks.processes:
                process.join()
            raise
        except mp.ProcessExitedException as error:
            if not said.empty():
                raise UserError(said.get()) from None
            how = error.signal_name or f"code {error.exit_code}"
            raise UserError(
                f"rank {error.error_index} of {count} ended by {how}, and the job with it; the same command "
                "goes on from the newest checkpoint"
            ) from None


def _log(level: int, files: Iterable[str]) -> None:
    """Log where the process that started the ranks does."""
    log = logging.getLogger("moediff")
    log.setLevel(level)
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers += [logging.FileHandler(path, "a", "utf-8") for path in files]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)


@contextmanager
def _no_script() -> Iterator[None]:
    """Within it new processes do not run the script of this one, as they would to find what it defines."""
    script = vars(sys.modules["__main__"])
    path = script.pop("__file__", None)
    try:
        yield
    finally:
        if path is not None:
            script["__file__"] = path


def _enter(
    rank: int,
    count: int,
    place: str,
    threads: int,
    told: tuple[int, list[str]],  # from what level on, and the files of the log
    said: Any,
    function: Callable[..., None],
    given: tuple,
) -> None:
    """What a rank begins with."""
    if rank == 0:
        _log(*told)
    torch.set_num_threads(threads)
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    try:
        with preemption.heeded():
            backend = "nccl" if gpus else "gloo"
            distributed.init_process_group(backend, init_method=place, rank=rank, world_size=count)
            function(*given, ranks=Ranks(rank, count))
            distributed.destroy_process_group()
    except preemption.Preempted as end:
        os._exit(end.code)
    except UserError as error:
        said.put(str(error))
        os._exit(1)
