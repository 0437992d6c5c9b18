"""Whether a checkpoint can read the corpus: tokens that text can give need a row of its embedding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from transformers import BertConfig, BertLMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

from families import tiny
from moediff.core.errors import UserError
from moediff.corpus.encoding import encode
from moediff.corpus.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    read_vocabulary,
    text_size,
    train_tokenizer,
    write_tokenizer,
)
from moediff.models import suitability

SIZE = 265
IMAGE = "<image_soft_token>"


def saved(folder: Path, added: AddedToken, rows: int = SIZE) -> LlamaForCausalLM:
    """A checkpoint of `rows` tokens with a tokenizer of SIZE entries and one more."""
    tokenizer = train_tokenizer(["the cat sat on the mat "] * 50, SIZE)
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)
    whole.add_tokens([added], special_tokens=added.special)
    model = tiny("llama", vocab_size=rows)
    model.save_pretrained(folder)
    whole.save_pretrained(folder)
    return model


def of_corpus(folder: Path, load: Path) -> tuple:
    """The corpus's tokenizer as the job `tokenizer` writes it of {load: ...}: its vocabulary and path."""
    path, vocabulary = folder / "tokenizer.json", folder / "vocabulary.json"
    write_tokenizer(path, vocabulary, *load_tokenizer(str(load), None))
    return read_vocabulary(vocabulary), path


def test_a_special_token_beyond_the_embedding_is_accepted_since_no_text_gives_it(
    tmp_path: Path,
) -> None:
    folder, corpus = tmp_path / "checkpoint", tmp_path / "corpus"
    corpus.mkdir()
    model = saved(folder, AddedToken(IMAGE, special=True))
    vocabulary, path = of_corpus(corpus, folder)
    assert vocabulary.size == SIZE + 1
    suitability.check_vocabulary(folder, model, vocabulary, path, "made")
    suitability.check_own_tokenizer(folder, model, "made")
    tokenizer = Tokenizer.from_file(str(path))
    assert text_size(tokenizer, vocabulary.end_of_text) == SIZE
    (spelt,) = encode(tokenizer, [f"the cat {IMAGE} sat"], vocabulary.end_of_text)
    assert spelt["tokens"].max() < SIZE


@pytest.mark.parametrize(
    ("added", "rows"),
    [
        (AddedToken("<tool>", special=False), SIZE),  # text that spells it gives it
        (AddedToken(IMAGE, special=True), SIZE - 1),  # a base entry is beyond
    ],
)
def test_a_token_of_text_beyond_the_embedding_is_refused_with_a_remedy_that_is_not_circular(
    added: AddedToken, rows: int, tmp_path: Path
) -> None:
    folder, corpus = tmp_path / "checkpoint", tmp_path / "corpus"
    corpus.mkdir()
    model = saved(folder, added, rows)
    vocabulary, path = of_corpus(corpus, folder)
    message = f"embedding has {rows} rows.*with the id {rows}"
    with pytest.raises(UserError, match=message) as caught:
        suitability.check_vocabulary(folder, model, vocabulary, path, str(folder))
    assert "set corpus.tokenizer" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        suitability.check_own_tokenizer(folder, model, "made")


def test_an_end_of_text_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    folder, corpus = tmp_path / "checkpoint", tmp_path / "corpus"
    corpus.mkdir()
    model = saved(folder, AddedToken("<end>", special=True))
    whole = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<end>"
    )
    whole.save_pretrained(folder)
    vocabulary, path = of_corpus(corpus, folder)
    assert vocabulary.end_of_text == SIZE
    with pytest.raises(UserError, match="'<end>' with the id 265"):
        suitability.check_vocabulary(folder, model, vocabulary, path, "made")


def test_the_token_that_begins_text_is_the_tokenizers_own_and_must_fit_the_embedding(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "checkpoint"
    model = saved(folder, AddedToken("<begin>", special=True), SIZE + 1)
    with pytest.raises(UserError, match=r"model 'made'.*has no beginning-of-text token"):
        suitability.begin_of_text(folder, model, "made")
    file = str(folder / "tokenizer.json")
    named = {"eos_token": END_OF_TEXT, "bos_token": "<begin>"}
    PreTrainedTokenizerFast(tokenizer_file=file, **named).save_pretrained(folder)
    assert suitability.begin_of_text(folder, model, "made") == "<begin>"
    with pytest.raises(UserError, match=f"'<begin>' has the id {SIZE}, its embedding {SIZE} rows"):
        suitability.begin_of_text(folder, tiny("llama", vocab_size=SIZE), "made")


def test_a_model_that_reads_both_ways_is_refused_and_one_that_does_not_is_not() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    for decoder in (False, True):
        bert = BertLMHeadModel(BertConfig(**sizes, is_decoder=decoder, intermediate_size=48)).eval()
        if decoder:
            suitability.check_causal(bert, "made")
        else:
            with pytest.raises(UserError, match="sees those after it"):
                suitability.check_causal(bert, "made")


def test_a_model_that_cannot_run_is_named_in_one_line() -> None:
    model = tiny("llama")
    model.model.norm.variance_epsilon = None
    with pytest.raises(UserError, match="cannot be run on text") as caught:
        suitability.check_causal(model, "made")
    assert "\n" not in str(caught.value)
