"""docs/faults.md: every row says all that a row has to say, and its tests exist."""

from __future__ import annotations

import ast
import re

from workflow import ROOT

COLUMNS = ["what happens", "what you see", "what is lost", "what goes on", "test"]


def rows() -> list[dict[str, str]]:
    """The rows of all tables, by column."""
    lines = (ROOT / "docs/faults.md").read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    ]
    assert all(len(row) == len(COLUMNS) for row in cells), [row for row in cells if len(row) != 5]
    return [
        dict(zip(COLUMNS, row, strict=True))
        for row in cells
        if row != COLUMNS and not set(row[0]) <= {"-"}
    ]


def test_every_fault_has_a_test_that_exists() -> None:
    found = rows()
    assert len(found) > 15
    for row in found:
        assert all(row.values()), row
        named = re.findall(r"\]\(\.\./(tests/[\w/]+\.py)#(\w+)\)", row["test"])
        assert named, row["what happens"]
        for path, name in named:
            parsed = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            functions = {node.name for node in parsed.body if isinstance(node, ast.FunctionDef)}
            assert name in functions, f"{row['what happens']}: {path} has no {name}"


def test_what_a_row_quotes_is_said_by_the_code_or_by_its_test() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("scripts", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
    )
    spoken = re.sub(r'"\s*f?"', "", code)  # lines that Python joins
    for row in rows():
        for quote in re.findall(r"`([^`]+)`", row["what you see"]):
            for part in re.split(r"\.\.\.|'|\(|\)|\d|[:<>]", quote):
                words = part.strip(" ;,")
                if len(words.split()) > 2:
                    assert words in spoken, f"{row['what happens']}: nothing says {words!r}"
