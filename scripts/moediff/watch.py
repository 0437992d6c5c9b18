"""Watch a run, from any machine that has its disk.

    python -m moediff.watch [RESULTS | --configfile FILE ...] [--once] [--every SECONDS]
                            [--write] [--tensorboard FOLDER]

On a terminal the table is drawn anew until Ctrl-C; elsewhere, and with --once, it is printed once. Logs,
benchmarks and checkpoints are read and nothing else: no job knows of it. It writes results/progress.json
with --write, and event files for TensorBoard into a folder outside the results with --tensorboard.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from moediff.core import artifact
from moediff.core.errors import UserError, first_line, one_line
from moediff.core.progress import duration, speed
from moediff.report import jobs
from moediff.report.jobs import Job, Look, Watched

WRITTEN = "progress.json"
EVERY = 5.0  # seconds between two looks, and no less than REST times what one takes
REST = 10
LONGEST_NAME = 48  # characters
COLUMNS = ["job", "", "done", "rate", "left", "last line", "at"]
AHEAD = 5.0  # seconds of difference between two clocks that are no news
COLORS = {  # of ANSI
    jobs.WAITING: 2,
    jobs.SILENT: 33,
    jobs.TOLD: 33,
    jobs.FAILED: 31,
    jobs.KILLED: 31,
}
RUNS = {
    jobs.GOES_ON: "a run goes on",
    jobs.OVER: "the run is over",
    jobs.STOPPED: "the run was ended or killed, or has no lock",
    jobs.UNKNOWN: "no run is known here",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    asked = _parser().parse_args(arguments)
    try:
        watched = Watched(_results(asked.results, asked.configfile))
        follow = _follower(watched.results, asked.tensorboard)
        return _watch(watched, asked, follow)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m moediff.watch", description="Progress of all jobs of a run, from its files."
    )
    parser.add_argument("results", nargs="?", help="folder of results (default: results)")
    parser.add_argument(
        "--configfile", nargs="+", help="the run's config files, which name its results"
    )
    parser.add_argument("--once", action="store_true", help="print the table once")
    parser.add_argument("--every", type=float, default=EVERY, help="seconds between two looks")
    parser.add_argument(
        "--write", action="store_true", help=f"write {WRITTEN} into the results too"
    )
    parser.add_argument(
        "--tensorboard", metavar="FOLDER", help="write event files of all histories there"
    )
    return parser


def _results(folder: str | None, configs: Iterable[str] | None) -> Path:
    """The folder to watch: as it is named, or as the last config that names one does."""
    import yaml

    if folder is not None and configs:
        raise UserError(f"{folder}: name the results or a config, not both")
    named = folder or "results"
    for config in configs or []:
        try:
            found = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{config}: cannot be read ({first_line(error)})") from error
        if isinstance(found, dict):
            named = str(found.get("results", named))
    return Path(named)


def _watch(watched: Watched, asked: argparse.Namespace, follow: Callable[[], None] | None) -> int:
    live = sys.stdout.isatty() and not asked.once
    drawn = 0  # lines on the terminal
    while True:
        began = time.monotonic()
        look = watched.look()
        if asked.write:
            artifact.write_plain_json(watched.results / WRITTEN, look.facts(time.time()))
        if follow is not None:
            follow()
        size = shutil.get_terminal_size() if live else os.terminal_size((10_000, 10_000))
        lines = table(look, size.columns, size.lines - 1, color=live)
        up = f"\x1b[{drawn}F\x1b[J" if drawn else ""
        print(up + "\n".join(lines), flush=True)
        if not live:
            return 0
        drawn = len(lines)
        time.sleep(max(asked.every, REST * (time.monotonic() - began)))


def _follower(results: Path, folder: str | None) -> Callable[[], None] | None:
    """What brings event files in a folder up to date; None where none are asked for."""
    if folder is None:
        return None
    from moediff.report import events

    events.check_installed()
    target = Path(folder).resolve()
    if target.is_relative_to(results):
        raise UserError(
            f"--tensorboard: {folder} lies in the results; name a folder outside of them"
        )
    return events.Followed(results, target).follow


def table(look: Look, width: int, height: int, color: bool = False) -> list[str]:
    """The lines that show a look: how all is, then a line a job, cut to the terminal."""
    lines = [_cut(line, width) for line in _head(look)]
    room = max(1, height - len(lines) - 1)
    shown = look.jobs if len(look.jobs) <= room else look.jobs[: room - 1]
    rows = [COLUMNS, *map(_row, shown)] if shown else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    codes = [None, *(COLORS.get(job.state) if color else None for job in shown)]
    for row, code in zip(rows, codes, strict=False):
        cells = (cell.ljust(size) for cell, size in zip(row, widths, strict=True))
        line = _cut("  ".join(cells).rstrip(), width)
        lines.append(line if code is None else f"\x1b[{code}m{line}\x1b[0m")
    if len(shown) < len(look.jobs):
        lines.append(f"and {len(look.jobs) - len(shown):,} more")
    return lines


def _head(look: Look) -> list[str]:
    """The run, its steps, and how many jobs are how; a word on clocks that differ."""
    run = RUNS[look.run]
    if look.steps:
        done, total = look.steps
        run += f": {done:,} of {total:,} steps ({100 * done // max(1, total)} %)"
    counts = [f"{count:,} {state}" for state, count in look.counts().items() if count]
    lines = [f"{run}; jobs: {', '.join(counts) or 'none yet'}"]
    if look.ahead > AHEAD:
        lines.append(
            f"the disk's clock is {duration(look.ahead)} ahead: silences may be longer than shown"
        )
    return lines


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(0, width - 3)] + "..."


def _short(name: str) -> str:
    """A job's name, its middle left out where it is long."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 3]}...{name[-half:]}"


def _row(job: Job) -> list[str]:
    """Cells of a job: name, state, done, rate, time left, age of its last line, what it is at."""
    count, rate = job.told.count, job.told.rate
    at_work = job.state in (jobs.RUNNING, jobs.SILENT)
    done = rated = left = ""
    if count and count.total:
        done = f"{100 * count.done // count.total} % of {count.total:,} {count.unit}"
    if at_work and count and rate:
        rated, left = speed(rate, count.unit), duration(job.left or 0)
    age = "" if job.silent is None else f"{duration(job.silent)} ago"
    at = job.told.error or job.told.last
    if at_work and count:
        at = ", ".join(filter(None, [count.name, count.note]))
    return [_short(job.name), job.state, done, rated, left, age, one_line(at, 200)]


if __name__ == "__main__":
    sys.exit(main())
