"""What a reader of numbers must know of the rows they are measured on, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moediff.activations.massive import LEFT_OUT, SHARE
from moediff.activations.shards import EXTERNAL
from moediff.config.activations import MASSIVE_NORM


def cautions(about: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each hook point of a manifest's `about` at which rows that stand out were left in."""
    for point, found in about.get("standing_out", {}).items():
        where = f"{about['model']}.{about['seed']} ({about['split']} rows, {point})"
        count, share = found["massive_rows"], found["massive_share"]
        if found["rows"]:
            row = found["rows"][0]
            times = row["times_median"]
            of_median = "" if times is None else f", {times:.3g} times the median"
            together = (
                f"; the {count} rows of massive norm hold {share:.0%} together" if count > 1 else ""
            )
            yield (
                f"One row holds {row['share']:.0%} of the variance of {where}: token {row['token']} in "
                f"document {row['document']}, position {row['position']}, of norm "
                f"{row['norm']:.3g}{of_median}{together}. What is measured follows it; "
                f"{_remedy(point, times)}."
            )
        elif share >= SHARE:
            yield (
                f"{count} rows of massive norm (above {MASSIVE_NORM} times the median) hold {share:.0%} of "
                f"the variance of {where}. What is measured follows them; {_remedy(point, MASSIVE_NORM)}."
            )
        else:
            yield (
                f"{count} {'row' if count == 1 else 'rows'} of massive norm (above {MASSIVE_NORM} times the "
                f"median) left in hold {share:.1%} of the variance of {where}."
            )


def _remedy(point: str, times: float | None) -> str:
    """What leaves such rows out."""
    if point == EXTERNAL:
        return "leave such rows out of the files"
    if times is None or times <= 1.1:
        return "no massive_norm leaves it out, since its norm is not large: see its document"
    bound = MASSIVE_NORM if times > MASSIVE_NORM else round(0.95 * times, 2)
    return f"'activations: {{drop: {{massive_norm: {bound}}}}}' leaves such rows out"


def massive_left_out(abouts: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on rows of massive norm that were left out, by source and split; empty without any."""
    counts = [
        f"{about['model']}.{about['seed']} {about['split']} {count:,} of {about['rows']:,} at "
        f"{reason.removeprefix(LEFT_OUT)}"
        for about in abouts
        for reason, count in about["left_out"].items()
        if reason.startswith(LEFT_OUT) and count
    ]
    if not counts:
        return ""
    return (
        "Rows of massive norm are left out, in one source or all of a dictionary "
        f"(activations.drop.massive_norm): {'; '.join(counts)}."
    )
