"""Which plugins of Snakemake a profile runs by; asked by the profiles, before Snakemake reads what they say.

Snakemake alone ends with all of its options and an executor that is none of its choices.
"""

from __future__ import annotations

import sys
from importlib import metadata

# Profile -> distribution -> version. Of Slurm's up to 2.6.1 ran a rule with two GPUs twice.
PLUGINS = {
    "slurm": {"snakemake-executor-plugin-slurm": "2.8.0"},
    "kubernetes": {
        "snakemake-executor-plugin-kubernetes": "0.5.1",
        "snakemake-storage-plugin-s3": "0.3.6",
    },
    "generic": {"snakemake-executor-plugin-cluster-generic": "1.0.9"},
}
INSTALL = "Needs its plugins: pip install -e '.[cluster]'"


def check(profile: str) -> None:
    """End the command with one line where a plugin of the profile is missing or of another version."""
    for name, version in PLUGINS[profile].items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "none"
        if found != version:
            sys.exit(f"profile {profile}: {INSTALL} ({name} {version} is not here, found {found})")
