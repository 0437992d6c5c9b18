"""External activations (`models.<name>.rows`): their files and domains; their checks."""

from __future__ import annotations

from pathlib import Path

from moediff.config.base import ROW_SPLITS, Config, as_list, matches
from moediff.config.globs import glob_fault
from moediff.core.errors import ConfigError


def row_patterns(rows: Config, split: str) -> list[str]:
    """The globs of a split that a model's `rows` name."""
    return as_list(rows[split])


def row_paths(config: Config, model: str, split: str) -> list[str]:
    """Files and folders of `rows`, one a shard: glob after glob, those of each sorted by name."""
    patterns = row_patterns(config["models"][model]["rows"], split)
    return [path for pattern in patterns for path in matches(pattern)]


def row_files(path: str) -> list[str]:
    """The files of one shard of `rows`: a safetensors file, or the .npy files of a folder."""
    return sorted(map(str, Path(path).glob("*.npy"))) if Path(path).is_dir() else [path]


def row_domains(config: Config, model: str) -> list[str]:
    """Names of the domains of `rows`: those given, else the corpus's, else one for all rows."""
    named = config["models"][model]["rows"]["domains"]
    return named or list(config.get("corpus", {}).get("domains", ["all"]))


def check_rows(name: str, config: Config) -> None:
    """That the files of `rows` are there, of a kind that is read, and none of them twice."""
    seen: set[str] = set()
    for split in ROW_SPLITS:
        where = f"models.{name}.rows.{split}"
        for pattern in row_patterns(config["models"][name]["rows"], split):
            found = matches(pattern)
            fault = glob_fault(pattern, [*found, *(part for p in found for part in row_files(p))])
            if fault:
                raise ConfigError(f"{where}: {fault}")
        for path in row_paths(config, name, split):
            if not _is_rows(path):
                raise ConfigError(
                    f"{where}: '{path}' is neither a .safetensors file nor a folder of .npy files"
                )
            if path in seen:
                raise ConfigError(f"{where}: '{path}' is named twice; a row counts once")
            seen.add(path)


def _is_rows(path: str) -> bool:
    if Path(path).is_dir():
        return bool(row_files(path))
    return Path(path).is_file() and path.endswith(".safetensors")
