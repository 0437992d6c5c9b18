"""Checkpoints: saved, fetched, loaded, described by a manifest, checked against the corpus."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from moediff.config import checkpoints
from moediff.config.checkpoints import CONFIG, WEIGHTS
from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError, writing
from moediff.models import adapters, fetching
from moediff.models.parameters import count_parameters
from moediff.models.reading import from_transformers, plain
from moediff.models.weight_files import digest, digests, json_object


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write config.json and model.safetensors as `save_pretrained` does, each whole or absent."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
            model.save_pretrained(scratch, max_shard_size="1TB")
            for name in (CONFIG, WEIGHTS):
                artifact.copy_whole(Path(scratch) / name, folder / name)


def load(
    folder: Path,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    device_map: str | None = None,
) -> PreTrainedModel:
    """The language model of a folder or GGUF file, for inference; no code of either is run.

    It lies whole on `device`, or, by a `device_map` of accelerate, layer by layer on the devices
    that there are. An adapter is merged into its base. Raises UserError when transformers has no
    such class, or weights are missing, of another shape (which transformers would fill with random
    numbers), not of this model, cut, or no safetensors of that folder.
    """
    if device_map and not find_spec("accelerate"):
        raise UserError("device_map: needs the package accelerate; install it, or leave it out")
    if checkpoints.is_gguf(folder):
        model = from_transformers(folder.parent, dtype, device, device_map, gguf=folder.name)
    elif checkpoints.is_adapter(folder):
        base = from_transformers(fetching.base_folder(folder), dtype, "cpu", device_map)
        model = adapters.merged(base, folder)
        if not device_map:
            model.to(device)  # type: ignore[arg-type]  # transformers hides self
    else:
        model = from_transformers(folder, dtype, device, device_map)
    return model.eval().requires_grad_(False)


def write_manifest(
    path: Path | str,
    model: PreTrainedModel,
    folder: Path,
    shown: str,
    dtype: str,
    made_by: Mapping[str, Any],
) -> None:
    """Write what later stages need of a model: where it is, its digest, its sizes."""
    config = model.config.get_text_config()
    artifact.write_json(
        path,
        {
            **made_by,
            "folder": shown,  # "." is the manifest's own
            "digest": digest(folder),
            "dtype": dtype,
            "class": type(model).__name__,
            "layers": config.num_hidden_layers,
            "d_model": config.hidden_size,
            "parameters": asdict(count_parameters(plain(model))),
        },
    )


def _changed(folder: Path) -> DamagedError:
    """What to say of a model of ours that is not the one its model.json describes."""
    try:
        json_object(folder / CONFIG)
    except UserError:
        return DamagedError(folder / CONFIG, "not JSON")
    return DamagedError(
        folder / WEIGHTS, f"this file or {CONFIG} beside it is not what model.json describes"
    )


def open_manifest(
    path: Path | str, device: torch.device, device_map: str | None = None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model that a manifest describes, and the manifest.

    Raises DamagedError, of a folder of the user's UserError, when the weights are no longer those
    that it describes.
    """
    facts = artifact.read_json(path)
    folder = Path(path).parent if facts["folder"] == "." else Path(facts["folder"])
    if not any((folder / name).is_file() for name in (CONFIG, checkpoints.ADAPTER_CONFIG, "")):
        raise UserError(
            f"{path} describes the checkpoint in {folder}, which is gone; put it back, or run "
            f"rm '{path}' and then the same snakemake command again"
        )
    if facts["digest"] not in digests(folder):
        if facts["folder"] == ".":
            raise _changed(folder)
        raise UserError(
            f"{path}: describes other weights than now lie in {folder}; put the former ones back, or, "
            f"if the change was meant, run rm '{path}' and then the same snakemake command again"
        )
    return load(folder, facts["dtype"], device, device_map), facts
