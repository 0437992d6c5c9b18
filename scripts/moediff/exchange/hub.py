"""Dictionaries as folders for the Hub: written with a model card, uploaded, and read from there.

`load_pretrained` also reads the layouts of `saelens` and `crosscoders`, from a folder or the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError, first_line
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.normalising import Rms
from moediff.exchange import crosscoders, saelens
from moediff.exchange.layouts import Metadata, source_names

CONFIG, CARD, WEIGHTS = "config.json", "README.md", "dictionary.safetensors"


def save_folder(
    dictionary_file: Path | str, folder: Path | str, metrics_file: Path | str | None = None
) -> None:
    """Write a dictionary, its provenance to be read (config.json) and a model card (README.md).

    `metrics_file` is the metrics.json beside it, for the numbers in the card.
    """
    folder = Path(folder)
    dictionary, metadata = Dictionary.load(dictionary_file)
    metrics = artifact.read_json(metrics_file) if metrics_file else {}
    artifact.copy_whole(dictionary_file, folder / WEIGHTS)
    artifact.write_plain_json(folder / CONFIG, metadata)
    artifact.write_text(folder / CARD, _card(dictionary, metadata, metrics.get("fve", [])))


def _card(
    dictionary: Dictionary, metadata: Mapping[str, Any], fve: Sequence[Mapping[str, Any]]
) -> str:
    """Text of a model card; `fve` are rows of metrics.json."""
    names, recipe = source_names(dictionary, metadata), metadata.get("recipe", {})
    kind = "Sparse autoencoder" if len(names) == 1 else "Crosscoder"
    origins = metadata.get("origins") or [{"hook": "not known"}] * len(names)
    lines = [
        "---", "library_name: moediff", f"tags: [{kind.lower().replace(' ', '-')}]", "---",
        f"# {kind} of {' and '.join(names)}", "",
        f"{dictionary.shape.features:,} features, fitted with moediff. Recipe: "
        f"{recipe.get('select', 'not known')}, k = {recipe.get('k', 'none')}; `config.json` has all of it.",
        "", "| source | d_model | hook point |", "|---|---|---|",
        *(f"| {name} | {width} | {origin['hook']} |"
          for name, width, origin in zip(names, dictionary.shape.widths, origins, strict=True)),
    ]  # fmt: skip
    if fve:
        lines += [
            "", "| source | mode | FVE | L0 |", "|---|---|---|---|",
            *(f"| {row['source']} | {row['mode']} | {row['fve']:.4f} | {row['l0']:.1f} |" for row in fve),
            "", f"FVE: {fve[0]['definition']}; {fve[0]['rows']:,} rows.",
        ]  # fmt: skip
    of = ", activations" if isinstance(dictionary.normaliser, Rms) else ""  # for their norms
    lines += [
        "", "```python", "from moediff.hub import load_pretrained", "",
        'dictionary, metadata = load_pretrained("this folder, or its Hub id")',
        "rows = dictionary.standardise(activations)  # one tensor [row, d_model] a source, in order",
        f"guess = dictionary.restore(dictionary.reconstruct(rows){of})", "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def load_folder(folder: Path | str) -> tuple[Dictionary, Metadata]:
    """The dictionary in a folder that `save_folder` wrote."""
    try:
        return Dictionary.load(Path(folder) / WEIGHTS)
    except DamagedError as error:
        raise UserError(
            f"{Path(folder) / WEIGHTS}: not whole; export or download it again"
        ) from error


# What stands in a folder -> its reader.
READERS = {
    WEIGHTS: load_folder,
    saelens.WEIGHTS: saelens.load,
    crosscoders.WEIGHTS: crosscoders.load,
}


def load_pretrained(name: str | Path, revision: str | None = None) -> tuple[Dictionary, Metadata]:
    """A dictionary and its metadata from a local folder, or from the Hub when there is no such folder.

    Any of the layouts that READERS names. Raises UserError when it is none, or not whole.
    """
    folder = _fetch(str(name), revision)
    found = [weights for weights in READERS if (folder / weights).is_file()]
    if not found:
        raise UserError(f"dictionary '{name}': holds none of {', '.join(READERS)}; check the name")
    return READERS[found[0]](folder)


def _fetch(name: str, revision: str | None) -> Path:
    """Folder of a dictionary: a local one as it is, a Hub id downloaded (weights and JSON only)."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    wanted = [*READERS, CONFIG, saelens.CONFIG, crosscoders.CONFIG]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the Hub's client raises a dozen unrelated classes
        raise UserError(
            f"dictionary '{name}': no such folder, and the Hub cannot be read "
            f"({type(error).__name__}: {first_line(error)}); check the name, the revision and the network"
        ) from error


def push(folder: Path | str, repo_id: str, private: bool = True) -> str:
    """Upload a folder that `save_folder` wrote to the Hub; the address of the commit.

    With `private` (the default) nothing is uploaded to a repository that is public already.
    """
    load_folder(folder)  # whole, before anything leaves
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        public = not api.repo_info(repo_id).private
        if not (private and public):
            files = [WEIGHTS, CONFIG, CARD]
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=files))
    except Exception as error:  # as in `_fetch`
        raise UserError(
            f"'{repo_id}': the Hub cannot be written ({type(error).__name__}: {first_line(error)}); "
            f"check the name, the network and that you are logged in"
        ) from error
    raise UserError(f"'{repo_id}': is public on the Hub; pass private=False to publish there")
