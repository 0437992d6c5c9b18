"""Which numbers of a document were recomputed: phrases that a test made from data, and what is left."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

CODE = re.compile(r"`[^`]*`|\]\([^)]*\)|^```.*?^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")
CONTEXT = 40  # characters shown on either side of a number that nothing accounts for


class Document:
    """A Markdown text, its line breaks and emphasis taken away, and which of it has been accounted for."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        blank = CODE.sub(lambda found: re.sub(r"\d", "_", found[0]), text)
        self.text, self.plain = _flat(text), _flat(blank)
        self.told = [False] * len(self.text)

    def says(self, *phrases: str) -> None:
        """Every phrase stands in the text; its numbers are accounted for wherever it does."""
        for phrase in phrases:
            wanted = _flat(phrase)
            places = [found.start() for found in re.finditer(re.escape(wanted), self.text)]
            assert places, f"not said: {wanted}"
            for start in places:
                self.told[start : start + len(wanted)] = [True] * len(wanted)

    def untold(self) -> list[str]:
        """Numbers outside code that no phrase accounts for, each with what stands around it."""
        return [
            self.text[max(0, found.start() - CONTEXT) : found.end() + CONTEXT]
            for found in NUMBER.finditer(self.plain)
            if not all(self.told[found.start() : found.end()])
        ]


def _flat(text: str) -> str:
    return " ".join(text.replace("**", "").replace("\n> ", "\n").split())


Part = Callable[[Document], None]
PARTS: list[Part] = []  # each accounts for the numbers of some paragraphs


def part(check: Part) -> Part:
    PARTS.append(check)
    return check


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def both(values: Iterable[float], digits: int = 2) -> str:
    """The numbers of two dictionaries."""
    return " and ".join(f"{one:.{digits}f}" for one in values)
