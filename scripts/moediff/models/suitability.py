"""Whether a checkpoint can read the corpus: its tokens, its context, and as a causal language model."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from moediff.config import checkpoints
from moediff.core.errors import UserError, first_line
from moediff.corpus.tokenizer import (
    Vocabulary,
    entries_digest,
    load_begin_of_text,
    load_tokenizer,
    open_tokenizer,
    parsed,
    special_ids,
    text_size,
    vocabulary_size,
)
from moediff.models.fetching import base_folder
from moediff.models.placement import input_device


def check_vocabulary(
    folder: Path, model: PreTrainedModel, vocabulary: Vocabulary, tokenizer: Path, name: str
) -> None:
    """Refuse a checkpoint whose tokens are not those of the corpus, by the corpus's tokenizer.json.

    A special token beyond the embedding is no fault: no text gives it.
    """
    own = _own_tokenizer(folder)
    if own is not None and entries_digest(own) != vocabulary.entries:
        raise UserError(
            f"model '{name}': its tokenizer ({vocabulary_size(own)} entries) is not that "
            f"of the corpus ({vocabulary.size}); set corpus.tokenizer to {{load: {name}}}"
        )
    if vocabulary.size > embedded(model):
        _check_reach(
            model, open_tokenizer(tokenizer, vocabulary.digest), vocabulary.end_of_text, name
        )


def _own_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer that lies with a checkpoint; None where there is none."""
    if checkpoints.is_gguf(folder):
        return load_tokenizer(str(folder), None, str(folder))[0]
    path = folder / "tokenizer.json"
    if checkpoints.is_adapter(folder) and not path.is_file():
        path = base_folder(folder) / "tokenizer.json"
    return _read(path) if path.is_file() else None


def _read(path: Path) -> Tokenizer:
    tokenizer = parsed(path)
    if tokenizer is None:
        raise UserError(f"{path}: not a whole tokenizer; copy or download that checkpoint again")
    return tokenizer


def check_own_tokenizer(folder: Path, model: PreTrainedModel, name: str) -> None:
    """Refuse a checkpoint that has no room for what its own tokenizer makes of text."""
    tokenizer, end, _ = load_tokenizer(str(folder), None, f"model '{name}'")
    (end_of_text,) = special_ids(tokenizer, [end])
    _check_reach(model, tokenizer, end_of_text, name)


def begin_of_text(folder: Path, model: PreTrainedModel, name: str) -> str:
    """The token that begins a checkpoint's text. Refuses one that has none, or no room for it."""
    where = f"model '{name}'"
    token = load_begin_of_text(str(folder), where)
    tokenizer, *_ = load_tokenizer(str(folder), None, where)
    (number,) = special_ids(tokenizer, [token])
    if number >= embedded(model):
        raise UserError(
            f"{where}: its beginning-of-text token {token!r} has the id {number}, its embedding "
            f"{embedded(model)} rows; leave begin_of_text out"
        )
    return token


def _check_reach(model: PreTrainedModel, tokenizer: Tokenizer, end: int, name: str) -> None:
    needed, entries = text_size(tokenizer, end), embedded(model)
    if needed > entries:
        raise UserError(
            f"model '{name}': its embedding has {entries} rows, and text can give the token "
            f"{tokenizer.id_to_token(needed - 1)!r} with the id {needed - 1}; take the tokenizer that the "
            "model was trained with, without tokens added later"
        )


def embedded(model: PreTrainedModel) -> int:
    """Rows of a model's token embedding."""
    entries: int = model.get_input_embeddings().num_embeddings  # type: ignore[assignment]  # Embedding
    return entries


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


@torch.no_grad()
def check_causal(model: PreTrainedModel, name: str) -> None:
    """Refuse a checkpoint that cannot be run on text, or in which a token sees those after it."""
    half = 4
    tokens = torch.arange(2 * half)[None] + embedded(model) // 2  # [1, position], no special ones
    tokens = tokens.clamp(max=embedded(model) - 1).to(input_device(model))
    changed = torch.cat([tokens[:, :half], tokens[:, half:].flip(1)], 1)
    try:
        one, other = (
            model(input_ids=ids, use_cache=False).logits[:, :half].float()
            for ids in (tokens, changed)
        )  # [1, half, vocabulary]
    except Exception as error:  # of the family's own code, on sizes that config.json made up
        raise UserError(
            f"model '{name}': {type(model).__name__} cannot be run on text "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    # Rounding may differ; what later tokens change, of a model that sees them, is of its own size.
    bound = torch.finfo(model.dtype).eps ** 0.5 * one.abs().max()
    if not (one - other).abs().max() <= bound:
        raise UserError(
            f"model '{name}': in {type(model).__name__} a token sees those after it (or its numbers are "
            "not finite); a causal language model is needed"
        )
