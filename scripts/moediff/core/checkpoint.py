"""Checkpoints of long jobs: whole or passed over, every tensor restored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError
from moediff.core.ranks import like, whole

# What an optimizer keeps of each parameter after its first step, by the name of its class.
_ADAM = ("step", "exp_avg", "exp_avg_sq")
_KEPT = {"Adam": _ADAM, "AdamW": _ADAM, "Muon": ("momentum_buffer",)}
# A checkpoint on the way is due when LEAST_WAIT seconds have passed since the last one, and WAIT_PER_WRITE
# times what writing that one took: so checkpoints cost 2 % of a run at most.
LEAST_WAIT, WAIT_PER_WRITE = 60.0, 50


class Pace:
    """When the next checkpoint of a run is due."""

    def __init__(self) -> None:
        self.last, self.wait = time.monotonic(), LEAST_WAIT

    def due(self) -> bool:
        return time.monotonic() - self.last >= self.wait

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within it a checkpoint is written."""
        started = time.monotonic()
        yield
        self.last = time.monotonic()
        self.wait = max(LEAST_WAIT, WAIT_PER_WRITE * (self.last - started))


def folder(root: Path, job: str, *key: Any) -> Path:
    """Where a job's checkpoints lie: below `root`, named by a digest of `key`.

    The key names the job, so that no two jobs write to one folder, and all that decides its result.
    """
    return root / f"{job}-{artifact.digest(*key)}"


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Any],
    metadata: Mapping,
    keep: int = 2,
    write: Callable[[Path, Mapping[str, Any], Mapping], None] | None = None,
) -> None:
    """Write checkpoint `step` into `folder` whole, then drop all but the newest `keep`."""
    path = folder / f"step-{step:09d}.safetensors"
    (write or artifact.write_tensors)(path, tensors, {"step": step, **metadata})
    for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        old.unlink(missing_ok=True)
    for cut in folder.glob(".step-*.partial"):  # of a run that was killed while it wrote
        cut.unlink(missing_ok=True)


def newest(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Tensors and metadata of the newest whole checkpoint; damaged ones are passed over."""
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            return artifact.read_tensors(path)
        except (DamagedError, FileNotFoundError):
            continue
    return None


def finished(path: Path) -> dict[str, Any] | None:
    """What a part of a job left as JSON when it was done; None when it is absent or not whole."""
    try:
        return artifact.read_json(path)
    except (UserError, FileNotFoundError):
        return None


def _learning(
    module: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a module that an optimizer of it holds; the others have no moments there."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return ((name, p) for name, p in module.named_parameters() if id(p) in held)


def state_of(module: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Every tensor of a module and of its optimizers, no two of which hold the same parameter.

    Whole, where ranks hold parts: all of them must ask for it.
    """
    tensors = {f"model/{name}": whole(value) for name, value in module.state_dict().items()}
    for optimizer in optimizers:
        for name, parameter in _learning(module, optimizer):
            for key, value in optimizer.state[parameter].items():
                tensors[f"optimizer/{name}/{key}"] = whole(value)
    return tensors


def weights_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of `state_of` that are the module's."""
    return {
        name.removeprefix("model/"): value
        for name, value in tensors.items()
        if name.startswith("model/")
    }


def load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module whole tensors, of which it takes its part where it holds one. Strict."""
    held = module.state_dict()
    parted = {
        name: like(value, held[name]) if name in held else value for name, value in weights.items()
    }
    module.load_state_dict(parted, strict=True)


def restore(
    module: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    tensors: Mapping[str, Tensor],
) -> None:
    """Take up `state_of`, every tensor; KeyError when one is missing."""
    load(module, weights_of(tensors))
    for optimizer in optimizers:
        kept = _KEPT[type(optimizer).__name__]
        for name, parameter in _learning(module, optimizer):
            if parameter.numel():  # an empty block has no moments
                for key in kept:
                    value = tensors[f"optimizer/{name}/{key}"]
                    moment = like(value, parameter) if value.ndim else value.to(parameter.device)
                    optimizer.state[parameter][key] = moment
