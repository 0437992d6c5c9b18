"""Error rates of a rule of classes, by hand."""

from __future__ import annotations

import pytest

from moediff.analysis.controls import control_of, error_rates, exclusive_share


def rows(member: str, a: int, common: int, b: int, recipe: str = "default") -> list[dict]:
    counts = {"tied": 9, "dead": 9, "A-only": a, "common": common, "B-only": b}
    about = {"recipe": recipe, "comparison": "c", "member": member, "seed": 0}
    return [
        {**about, "sources": member.split("_"), "class": name, "count": count}
        for name, count in counts.items()
    ]


@pytest.mark.parametrize(
    ("sources", "control"),
    [
        (("moe.0", "dense.0"), None),
        (("moe.0", "moe.1"), "other seed"),
        (("moe.0@resid_post.2", "moe.0@resid_post.3"), None),
        (("moe.0", "moe.0.rotated"), "rotated"),
        (("moe.0@a.0.5", "dense.0.permuted@a.0.5"), "permuted"),
    ],
)
def test_a_control_is_known_by_its_sources(sources: tuple[str, str], control: str | None) -> None:
    assert control_of(sources) == control


def test_rates_are_means_over_the_dictionaries_of_a_control() -> None:
    made = [
        *rows("moe.0_moe.1", 1, 8, 1), *rows("dense.0_dense.1", 3, 6, 1),
        *rows("moe.0_dense.0.permuted", 49, 2, 49), *rows("moe.0_dense.0", 5, 5, 5),
        *rows("moe.0_moe.1", 0, 10, 0, "wide"), *rows("moe.0_moe.2", 0, 0, 0),
    ]  # fmt: skip
    found = {(row["recipe"], row["control"]): row for row in error_rates(made)}
    assert set(found) == {
        ("default", "other seed"), ("default", "permuted"), ("wide", "other seed")
    }  # fmt: skip
    null = found["default", "other seed"]
    assert (null["dictionaries"], null["lowest"], null["highest"]) == (2, 0.2, 0.4)
    assert null["exclusive"] == pytest.approx(0.3)
    assert found["default", "permuted"]["exclusive"] == pytest.approx(0.98)
    assert found["wide", "other seed"]["exclusive"] == 0
    assert exclusive_share({"A-only": 0, "B-only": 0, "common": 0}) is None
