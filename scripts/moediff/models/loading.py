"""Checkpoints: saved, fetched, loaded, described by a manifest, checked against the corpus."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError, first_line, writing
from moediff.corpus.tokenizer import Vocabulary, entries_digest, parsed, vocabulary_size
from moediff.models.parameters import count_parameters
from moediff.models.weight_files import CONFIG, WEIGHTS, check_weights, digest, digests


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write config.json and model.safetensors as `save_pretrained` does, each whole or absent."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
            model.save_pretrained(scratch, max_shard_size="1TB")
            for name in (CONFIG, WEIGHTS):
                artifact.copy_whole(Path(scratch) / name, folder / name)


def fetch(name: str, revision: str | None) -> Path:
    """Folder of a checkpoint: a local one as it is, a Hub id downloaded (safetensors only)."""
    if Path(name).is_dir():
        folder = Path(name)
    else:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(
                    name, revision=revision, allow_patterns=["*.safetensors", "*.json", "*.txt"]
                )
            )
        except Exception as error:  # the Hub's client raises a dozen unrelated classes
            raise UserError(
                f"model '{name}': no such folder, and the Hub cannot be read "
                f"({type(error).__name__}: {first_line(error)}); check the name, the revision and the network"
            ) from error
    if not (folder / CONFIG).is_file() or not list(folder.glob("*.safetensors")):
        raise UserError(f"model '{name}': needs {CONFIG} and safetensors weights in {folder.name}/")
    return folder


def load(
    folder: Path,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    device_map: str | None = None,
) -> PreTrainedModel:
    """A causal language model of a folder, for inference; no code of the folder is run.

    It lies whole on `device`, or, by a `device_map` of accelerate, layer by layer on the devices
    that there are. Raises UserError when transformers has no such class or a weight is missing or of another
    shape (which transformers would fill with random numbers), when weights are cut, or lie elsewhere.
    """
    from safetensors import SafetensorError

    if device_map and not find_spec("accelerate"):
        raise UserError("device_map: needs the package accelerate; install it, or leave it out")
    check_weights(folder)
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model: PreTrainedModel
        found: dict[str, Any]
        model, found = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]  # with info: a pair
            folder,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # listed, and refused below by name
            device_map=device_map,
        )
    except SafetensorError as error:
        raise UserError(
            f"{folder}: its weights are not whole ({first_line(error)}); copy or download that "
            "checkpoint again"
        ) from error
    except (ValueError, KeyError, OSError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{folder}: transformers cannot load it as a causal language model "
            f"({first_line(error)})"
        ) from error
    absent = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if absent:
        raise UserError(
            f"{folder}: {len(absent)} weights of {type(model).__name__} are missing or of another "
            f"shape ({absent[0]}); take a whole checkpoint of a causal language model"
        )
    if not device_map:
        model.to(device)  # type: ignore[arg-type]  # transformers hides self
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
            "parameters": asdict(count_parameters(model)),
        },
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
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{path} describes the checkpoint in {folder}, which is gone; put it back, or run "
            f"rm '{path}' and then the same snakemake command again"
        )
    if facts["digest"] not in digests(folder):
        if facts["folder"] == ".":
            raise DamagedError(folder / WEIGHTS, "not the weights that model.json describes")
        raise UserError(
            f"{path}: describes other weights than now lie in {folder}; put the former ones back, or, "
            f"if the change was meant, run rm '{path}' and then the same snakemake command again"
        )
    return load(folder, facts["dtype"], device, device_map), facts


def check_vocabulary(
    folder: Path, model: PreTrainedModel, vocabulary: Vocabulary, name: str
) -> None:
    """Refuse a checkpoint whose tokens are not those of the corpus."""
    entries: int = model.get_input_embeddings().num_embeddings  # type: ignore[assignment]  # Embedding
    if vocabulary.size > entries:
        raise UserError(
            f"model '{name}': its vocabulary has {entries} entries, the corpus tokenizer "
            f"{vocabulary.size}; set corpus.tokenizer to {{load: {name}}}"
        )
    own = folder / "tokenizer.json"
    if own.is_file():
        tokenizer = parsed(own)
        if tokenizer is None:
            raise UserError(f"{own}: not a whole tokenizer; copy or download that checkpoint again")
        if entries_digest(tokenizer) != vocabulary.entries:
            raise UserError(
                f"model '{name}': its tokenizer ({vocabulary_size(tokenizer)} entries) is not that "
                f"of the corpus ({vocabulary.size}); set corpus.tokenizer to {{load: {name}}}"
            )


def check_context(model: PreTrainedModel, length: int, name: str) -> None:
    """Refuse sequences longer than a checkpoint was made for.

    By a tokenizer of its own the longest sequence of a shard may have more tokens than the corpus's.
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and length > most:
        raise UserError(
            f"model '{name}': made for sequences of {most} tokens, corpus.sequence.length is "
            f"{length}; lower it"
        )
