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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch import multiprocessing as mp

from moediff.core import nodes, preemption
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

    def gathered(self, values: Tensor, counts: np.ndarray | None = None) -> list[Tensor]:
        """Of every rank its numbers [n], of one type, as many as it has; on every rank.

        `counts` [rank] says how many, where that is known.
        """
        if self.count == 1:
            return [values]
        counts = (self.each(len(values)) if counts is None else counts).astype(int)
        padded = values.new_zeros(int(counts.max()))
        padded[: len(values)] = values
        found = [torch.empty_like(padded) for _ in range(self.count)]
        distributed.all_gather(found, padded)
        return [part[:count] for part, count in zip(found, counts.tolist(), strict=True)]

    def to_first(self, tensor: Tensor, holder: int) -> Tensor:
        """On the first rank the tensor of `holder`, in place of one of that shape and type."""
        if self.leads and holder:
            distributed.recv(tensor, holder)
        elif self.rank == holder and holder:
            distributed.send(tensor.contiguous(), 0)
        return tensor

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


def together(
    count: int,
    function: Callable[..., None],
    *given: Any,
    launcher: str | None = None,
    folder: Path | None = None,
) -> None:
    """Run `function(*given, ranks=...)` in `count` processes; in this one alone where it is 1.

    `function` is one of a module, and what it is given can be sent. Raises UserError with the first line of a
    rank that ends by one, and where a rank is killed; the others are then ended too. With a `launcher` such
    as `srun` the processes are those that it starts (`nodes.launch`, by way of `folder`). A process that
    torchrun or its like has made a rank is that one; it raises UserError where another number was asked for,
    and where another rank ends.
    """
    place = nodes.place()
    if place is not None:
        if count not in (1, place.count):
            raise UserError(
                f"{count} ranks are asked for, and WORLD_SIZE is {place.count}; ask for as many, or for none"
            )
        return _join(place, function, given)
    if launcher is not None and folder is not None:
        return nodes.launch(launcher, folder, function, given, _beginning(1))
    if count == 1:
        return function(*given, ranks=ALONE)
    said = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="moediff-ranks-") as scratch:
        meeting = f"file://{Path(scratch) / 'meeting'}"
        begin = (count, meeting, _beginning(count), said, function, given)
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


def _beginning(sharing: int) -> dict[str, Any]:
    """What a rank takes over from the process that starts it: its log, and its threads for so many ranks."""
    log = logging.getLogger("moediff")
    files = [one.baseFilename for one in log.handlers if isinstance(one, logging.FileHandler)]
    threads = max(1, torch.get_num_threads() // sharing)
    return {"threads": threads, "level": log.level, "files": files}


def begin_as(about: Mapping[str, Any], leads: bool) -> None:
    """Begin a rank as `_beginning` says; the one that leads logs where the process that started it does."""
    torch.set_num_threads(about["threads"])
    if leads:
        _log(about["level"], about["files"])


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
    meeting: str,
    about: Mapping[str, Any],
    said: Any,
    function: Callable[..., None],
    given: tuple,
) -> None:
    """What a rank begins with."""
    begin_as(about, leads=rank == 0)
    try:
        with preemption.heeded():
            _meet(Ranks(rank, count), rank, meeting)
            function(*given, ranks=Ranks(rank, count))
            distributed.destroy_process_group()
    except preemption.Preempted as end:
        os._exit(end.code)
    except UserError as error:
        said.put(str(error))
        os._exit(1)


def _meet(ranks: Ranks, local: int, meeting: str) -> None:
    """Wait for all ranks; each takes the device of its number on its machine."""
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(local % torch.cuda.device_count())
    distributed.init_process_group(
        "nccl" if gpus else "gloo", init_method=meeting, rank=ranks.rank, world_size=ranks.count
    )


def _join(place: nodes.Place, function: Callable[..., None], given: tuple) -> None:
    """Be a rank of those that something else has started."""
    ranks = Ranks(place.rank, place.count)
    if ranks.count == 1:
        return function(*given, ranks=ALONE)
    try:
        _meet(ranks, place.local, "env://")
        function(*given, ranks=ranks)
        distributed.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            f"rank {ranks.rank} of {ranks.count}: another rank has ended, and the job with it; the same "
            "command goes on from the newest checkpoint"
        ) from error
