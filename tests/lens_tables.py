"""The tables of docs/moe-lens.md, made of docs/reference/moe-lens."""

from __future__ import annotations

import math
from collections.abc import Iterator

import polars as pl

from stored import stored
from workflow import ROOT

FOLDER = ROOT / "docs/reference/moe-lens"
DOMAINS = ("code", "science", "stories", "all")
ROUTED, ALONE, STREAM = "routed", "none", "stream"


def table(name: str) -> pl.DataFrame:
    return pl.read_parquet(FOLDER / f"{name}.parquet")


def interval(row: dict) -> str:
    low, high = row["interval"]
    return f"{row['estimate']:.3g} ({low:.3g} to {high:.3g})"


def verdicts() -> Iterator[str]:
    for row in stored(FOLDER, "expert_claims")["claims"]:
        yield f"| `{row['id']}` | {row['reference']:g} | {interval(row)} | {row['verdict']} |"


def fewer() -> Iterator[str]:
    """Perplexity with fewer experts over that with all, by domain, mean over seeds of the log."""
    rows = table("fewer_experts").filter(pl.col("layer").is_null() & (pl.col("weights") == ROUTED))
    for model in ("moe", "coarse"):
        own = rows.filter(pl.col("model") == model)
        used = own["k"].max()
        columns = [("keep", k) for k in range(1, used)]
        columns += [("second", 1), ("random chosen", 1), ("random any", 1)]
        for domain in DOMAINS:
            cells = []
            for kind, k in columns:
                here = own.filter(
                    (pl.col("kind") == kind) & (pl.col("k") == k) & (pl.col("domain") == domain)
                )
                cells.append(f"{math.exp(here['cost'].mean()):.3f}")
            yield f"| {model} | {domain} | " + " | ".join(cells) + " |"


def routing() -> Iterator[str]:
    """How concentrated routing is, by domain: means over layers and seeds, and the largest share."""
    found = stored(FOLDER, "routing")
    rows = pl.DataFrame(found["rows"], infer_schema_length=None)
    experts = {row["model"]: row["experts"] for row in found["models"]}
    for (model, domain), part in rows.group_by("model", "domain", maintain_order=True):
        half, busiest = part["experts_for_half_of_slots"], part["busiest_share"]
        yield (
            f"| {model} | {domain} | {busiest.mean():.3f} / {busiest.max():.3f} | "
            f"{half.mean():.1f} of {experts[model]} | {part['entropy'].mean():.3f} | "
            f"{part['gini'].mean():.3f} |"
        )


def information() -> Iterator[str]:
    """What experts tell, in nats above the null: mean, least and most over layers and seeds."""
    rows = pl.DataFrame(
        [
            {key: row[key] for key in ("model", "of", "corrected")}
            for row in stored(FOLDER, "routing")["information"]
        ]
    )
    for (model, of), part in rows.group_by("model", "of", maintain_order=True):
        told = part["corrected"]
        yield f"| {model} | {of} | {told.mean():.4f} ({told.min():.4f} to {told.max():.4f}) |"


def lens() -> Iterator[str]:
    """By layer, means over seeds: cosines of what stands for all experts, and what is said."""
    rows = table("lens").filter((pl.col("domain") == "all") & (pl.col("model") == "moe"))
    rows = rows.filter((pl.col("weights") == ROUTED) & (pl.col("experts") <= 1))
    for (layer,), part in rows.sort("layer").group_by("layer", maintain_order=True):
        cells = []
        for term in ("heaviest", "second", "random chosen", "random unchosen", "nothing"):
            for stream in (ALONE, STREAM):
                here = part.filter((pl.col("term") == term) & (pl.col("stream") == stream))
                cells.append(f"{here['cosine'].mean():.3f}")
        beside = part.filter((pl.col("term") == "heaviest") & (pl.col("stream") == STREAM))
        cells += [
            f"{beside['cosine_layer'].mean():.3f}",
            f"{beside['kl_layer'].mean():.3f}",
            f"{beside['agrees_layer'].mean():.3f}",
        ]
        yield f"| {layer} | " + " | ".join(cells) + " |"


def prune() -> Iterator[str]:
    """Ratio of perplexities without experts, chosen on all text, on all text; and on other domains than that
    they were chosen on."""
    rows = table("prune").filter((pl.col("model") == "moe") & pl.col("score").is_not_null())
    keeps = sorted(rows["keep"].unique(), reverse=True)
    inside = (pl.col("chosen_on") == pl.col("domain")) & (pl.col("domain") != "all")
    outside = (
        (pl.col("chosen_on") != pl.col("domain"))
        & (pl.col("chosen_on") != "all")
        & (pl.col("domain") != "all")
    )
    whole = (pl.col("chosen_on") == "all") & (pl.col("domain") == "all")
    for score in ("reap", "frequency", "gate_share", "norm", "random"):
        for name, where in (
            ("all text", whole),
            ("own domain", inside),
            ("other domains", outside),
        ):
            cells = []
            for keep in keeps:
                here = rows.filter(where & (pl.col("score") == score) & (pl.col("keep") == keep))
                cells.append(f"{math.exp(here['cost'].mean()):.3f}" if len(here) else "")
            yield f"| {score} | {name} | " + " | ".join(cells) + " |"


TABLES = {
    "verdicts": verdicts,
    "fewer": fewer,
    "routing": routing,
    "information": information,
    "lens": lens,
    "prune": prune,
}

if __name__ == "__main__":
    for name, rows in TABLES.items():
        print(f"--- {name}")
        print("\n".join(rows()))
