"""A finished study in a notebook: its rows opened by name, and the text that a row was read in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moediff.activations.rows import AlignedRows
from moediff.config import layout
from moediff.config.base import ROW_SPLITS
from moediff.config.layout import Source
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.corpus.sources import find_texts

if TYPE_CHECKING:
    import polars as pl

    from moediff.experts.routing_record import RoutedText


@dataclass(frozen=True)
class Passage:
    """A token where it stands in its document."""

    before: str
    token: str
    after: str
    document: str  # id, as in the corpus tables
    domain: str

    def __str__(self) -> str:
        return f"{self.before}[[{self.token}]]{self.after}"


class StudyRows(AlignedRows):
    """The rows of a study's sources over a split, and their text."""

    results: Path

    def text(self, row: int, around: int = 80) -> Passage:
        """The token of a row of the split with `around` characters on either side.

        By several tokenizers: the token of the first source. Raises UserError for rows that other
        code wrote, whose place in the text is not known.
        """
        shard, place = self.place(row)
        if shard.facts["tokenizer"] is None:
            raise UserError(
                f"{shard.path}: its rows are external activations, whose text is not known"
            )
        document, domain, start, end = (
            int(shard.read(name)[place]) for name in ("document", "domain", "start", "end")
        )
        name = self.domains[domain]
        text = find_texts([self.results / layout.path("documents", domain=name)], [document])[
            document
        ]
        return Passage(
            text[max(start - around, 0) : start],
            text[start:end],
            text[end : end + around],
            f"{document:015x}",
            name,
        )


def open_rows(results: Path | str, *sources: str, split: str = "validation") -> StudyRows:
    """The rows of one or several sources of a study, aligned.

    `results` is the study's folder. A source is named as in a config: "moe", or "moe.1" for another
    seed than 0, or "moe@mlp_out.0.5" for one of several hook points.
    """
    folder = Path(results)
    if not sources or split not in ROW_SPLITS:
        raise UserError(f"open_rows: needs a source, and a split that is {' or '.join(ROW_SPLITS)}")
    paths: list[Sequence[Path]] = []
    points: list[str | None] = []
    for name in sources:
        source = Source.parse(name, seed=0)
        shard = layout.path(
            "activations", model=source.model, seed=source.seed, split=split, shard="*"
        )
        paths.append(sorted(folder.glob(shard)))
        points.append(source.point)
        if not paths[-1]:
            place = (folder / shard).parent
            raise UserError(f"{place}: no activation shards; run snakemake for this study first")
    rows = StudyRows(paths, points)
    rows.results = folder
    return rows


def open_routing(results: Path | str, source: str) -> RoutedText:
    """How one MoE of a study routed the tokens whose activations are stored, of the validation split.

    `source` as in `open_rows`; a hook point says nothing here. `found.layers[3]` are experts and gates
    [token, k] of a layer, beside `token`, `group` and `domain` [token]. Raises UserError where none is
    stored.
    """
    from moediff.experts import routing_record

    found = Source.parse(source, seed=0)
    record = artifact.read_json(_of_moe(results, found, "routing.json"))
    place = {"model": found.model, "seed": found.seed, "split": "validation", "shard": "*"}
    paths = sorted(Path(results).glob(layout.path("activations", **place)))
    if not paths:
        raise UserError(
            f"{results}: no activation shards of {source}; run snakemake for them first"
        )
    return routing_record.read(paths, record["experts"])


def expert_lens(results: Path | str, source: str) -> pl.DataFrame:
    """What the heaviest experts of one MoE of a study say, as `experts.lens.expert_lens` gives it."""
    return artifact.read_parquet(_of_moe(results, Source.parse(source, seed=0), "lens.parquet"))


def _of_moe(results: Path | str, source: Source, file: str) -> Path:
    """A file of an MoE of a study. Raises UserError with the command that makes it."""
    path = Path(results) / layout.path("moe", model=source.model, seed=source.seed, file=file)
    if not path.exists():
        raise UserError(f"{path}: is not there; run snakemake '{path}' first")
    return path
