"""Peak memory and seconds of every stage by the tokens of the corpus (Linux).

    python benchmarks/corpus_memory.py --folder FOLDER [--tokens N ...] [--stages NAME ...]

Text of a steady vocabulary is made for so many train tokens, a quarter as many to fit on, a tenth to measure
on. Each stage of `corpus_stages` runs in a process of its own: the figure is that process's largest resident
set. What a stage leaves in FOLDER is used again: each can be measured alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from corpus_stages import STAGES, Place

ENDED = 128 + signal.SIGTERM  # of a job that was told to end


def measured(folder: Path, tokens: int, stage: str) -> tuple[float, float]:
    """MB at the peak and seconds of a stage in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--folder",
        str(folder),
        "--tokens",
        str(tokens),
        "--one",
        stage,
    ]
    start = time.perf_counter()
    with open(folder / "stages.log", "a") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code
    if code not in (0, ENDED):
        raise SystemExit(
            f"{stage}, {tokens:,} tokens: ended with {code}; see {folder / 'stages.log'}"
        )
    return usage.ru_maxrss / 1024, time.perf_counter() - start


def table(found: dict[str, dict[str, list[float]]], counts: list[int]) -> Iterator[str]:
    yield (
        "| stage | "
        + " | ".join(f"{n / 1e6:g}M" for n in counts)
        + " | last over the one before | seconds |"
    )
    yield "|---" * (len(counts) + 3) + "|"
    for stage in STAGES:
        known = found.get(stage, {})
        cells = [f"{known[str(n)][0]:.0f}" if str(n) in known else "" for n in counts]
        last = [known[str(n)] for n in counts[-2:] if str(n) in known]
        ratio = f"{last[1][0] / last[0][0]:.2f}" if len(last) == 2 else ""
        seconds = ", ".join(f"{known[str(n)][1]:.0f}" for n in counts if str(n) in known)
        yield f"| {stage} | " + " | ".join(cells) + f" | {ratio} | {seconds} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="*", default=[10**6, 10**7, 10**8])
    parser.add_argument(
        "--stages", nargs="*", choices=STAGES, default=list(STAGES), help="of " + ", ".join(STAGES)
    )
    parser.add_argument("--one", choices=STAGES, help="this stage, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        (tokens,) = arguments.tokens
        STAGES[arguments.one](Place(arguments.folder, tokens))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept = arguments.folder / "measured.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for tokens in arguments.tokens:
        for stage in arguments.stages:
            found.setdefault(stage, {})[str(tokens)] = measured(arguments.folder, tokens, stage)
            kept.write_text(json.dumps(found))
    for line in table(found, sorted({int(n) for known in found.values() for n in known})):
        print(line)


if __name__ == "__main__":
    main()
