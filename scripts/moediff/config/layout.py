"""Names: what a source, a member of a comparison and a dictionary are called."""

from __future__ import annotations

from dataclasses import dataclass

AT = "@"  # between a model and a hook point, in a comparison and in the name of a source


@dataclass(frozen=True)
class Source:
    """One side of a dictionary: a model of one seed at a hook point (None: the only one), and how a
    control shows its rows (None: as they are)."""

    model: str
    seed: int
    point: str | None = None
    view: str | None = None

    @property
    def name(self) -> str:
        seen = f"{self.model}.{self.seed}" + (f".{self.view}" if self.view else "")
        return seen + (f"{AT}{self.point}" if self.point else "")


@dataclass(frozen=True)
class Member:
    """The sources of one dictionary of a comparison, in order: the first is A, the second B."""

    comparison: str
    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        return "_".join(source.name for source in self.sources)


@dataclass(frozen=True)
class Fit:
    """One dictionary: a member of a comparison, a recipe and a seed."""

    member: Member
    recipe: str
    seed: int
