"""Tables of the page: rows known by hand from records as stages write them."""

from __future__ import annotations

from moediff.analysis import over_seeds, similarity
from moediff.core.terms import EITHER
from moediff.report import kinds_tables, tables

NAMED = {"comparison": "c", "member": "moe.0_dense.0", "recipe": "r", "seed": 1}
CALLED = "c: moe.0 + dense.0, r, seed 1"


def test_a_claim_s_reason_leaves_out_what_withholds_every_verdict() -> None:
    claim = {"statement": "MoEs have more", "verdict": "no verdict", "primary": True, "estimate": 0.5,
             "interval": [0.1, 0.9], "reference": None, "minimum_effect": 0.1, "p_holm": 0.02,
             "reason": "too few tokens; an own fault"}  # fmt: skip
    (row,) = tables.claims({"claims": [claim], "withheld": ["too few tokens"]})
    assert row == {
        "claim": "MoEs have more", "verdict": "no verdict", "primary": "yes", "estimate": 0.5,
        "interval": [0.1, 0.9], "reference": None, "minimum_effect": 0.1, "p_holm": 0.02,
        "reason": "an own fault",
    }  # fmt: skip
    (row,) = tables.claims({"claims": [claim | {"primary": False}], "withheld": []})
    assert (row["primary"], row["reason"]) == ("", "too few tokens; an own fault")


def test_classes_stand_beside_the_error_rates_of_their_recipe() -> None:
    pair = NAMED | {"sources": ["moe.0", "dense.0"], "k": 4, "features": 40,
                    "classes": {"A-only": 3, "common": 6, "B-only": 1, "tied": 10, "dead": 20}}  # fmt: skip
    rates = [{"recipe": "r", "control": "permuted", "exclusive": 0.9},
             {"recipe": "other", "control": "rotated", "exclusive": 0.2}]  # fmt: skip
    (row,) = tables.classes([pair, pair | {"sources": ["moe.0"]}], {"error_rates": rates})
    assert row == {
        "dictionary": CALLED, "k": 4, "features": 40, "only moe": 3, "common": 6, "only dense": 1,
        "tied": 10, "dead": 20, "exclusive share": 0.4, "of other seed": None, "of rotated": None,
        "of permuted": 0.9,
    }  # fmt: skip
    other = pair | {"member": "moe.0_narrow.0"}
    first, second = tables.classes([pair, other], {"error_rates": rates})
    assert (first["first"], first["only first"], first["second"]) == ("moe", 3, "dense")
    assert (second["second"], second["only second"]) == ("narrow", 1)


def test_shares_of_classes_are_a_row_a_source_without_dead_features() -> None:
    rows = [
        NAMED | {"sources": ["moe.0", "dense.0"], "class": name,
                 "shares": {"moe.0": share, "dense.0": share / 2}}
        for name, share in (("A-only", 0.2), ("dead", 0.0), ("common", 0.6))
    ]  # fmt: skip
    assert tables.class_shares({"rows": rows}) == [
        {"dictionary": CALLED, "source": "moe.0", "its own": 0.2, "common": 0.6},
        {"dictionary": CALLED, "source": "dense.0", "common": 0.3, "the other's": 0.1},
    ]


def test_losses_are_means_over_seeds_by_domain() -> None:
    ends = {"moe": [{"all": 3.0, "code": 2.0}, {"all": 4.0, "code": 2.5}], "dense": [{"all": 5.0}]}
    assert tables.mean_losses(ends) == {"moe": {"all": 3.5, "code": 2.25}, "dense": {"all": 5.0}}
    rows = [{"model": "trigram", "domain": "all", "cross_entropy": 4.5, "tokens": 9},
            {"model": "trigram", "domain": "code", "cross_entropy": 4.0, "tokens": 3}]  # fmt: skip
    assert tables.ngram_levels(rows) == {"trigram": {"all": 4.5, "code": 4.0}}


def test_panels_are_judged_and_their_domains_named_row_by_row() -> None:
    panel = NAMED | {
        "judged": [{"kind": "moe", "statistic": "share", "observed": 0.1, "p": 0.2, "more": 0}],
        "own_domains": {"moe": {"features": {"code": 3, "tales": 1},
                                "explained": {"code": 0.8, "tales": 0.2}}},
        "text_groups": {"all": 40, "code": 30, "tales": 10},
    }  # fmt: skip
    (judged,) = tables.judged([panel])
    assert judged == {
        "dictionary": CALLED, "kind": "moe", "statistic": "share", "observed": 0.1, "interval": None,
        "largest_other": None, "median_other": None, "others": None, "p": 0.2,
        "groups of documents": 40,
    }  # fmt: skip
    named = [(row["domain"], row["features"], row["share of what they explain"])
             for row in tables.domains([panel])]  # fmt: skip
    assert named == [("code", 3, 0.8), ("tales", 1, 0.2)]


def test_kinds_are_graded_by_features_and_by_rows_and_their_features_counted() -> None:
    r2 = {
        "statistic": "r2",
        "observed": 0.4,
        "largest_other": 0.3,
        "rank": 1,
        "others": 34,
        "p": 1 / 35,
    }
    other = {"statistic": "pseudo_f", "observed": 4.0}
    own = {"kind": "moe", "features": 7, "q": 0.1, "share": 0.2, "elsewhere": 0.05}
    rows = [{"measure": name, "judged": [r2 | {"observed": 0.1}]} for name in similarity.MEASURES]
    panel = NAMED | {"judged": [r2, other], "without_dictionary": rows, "catalogue": [own]}
    found = kinds_tables.graded([panel])
    assert [row["R2"] for row in found] == [0.4, *[0.1] * len(similarity.MEASURES)]
    assert len({row["measured by"] for row in found}) == 1 + len(similarity.MEASURES)
    assert found[0]["rank"] == "1 of 35"
    (counted,) = kinds_tables.catalogue([panel])
    assert counted == {
        "dictionary": CALLED, "used more by": "moe", "features": 7, "at most false": 0.1,
        "their share there": 0.2, "in the other kind": 0.05,
    }  # fmt: skip
    planted = {
        "statistic": "r2",
        "strength": None,
        "least": None,
        "largest_tried": 0.03,
        "seen": [{"share": 0.03, "seen": 3, "tries": 5}],
    }
    seen = [planted, planted | {"statistic": "exclusive", "strength": 4.0, "least": 0.01}]
    rows = kinds_tables.detectable([panel | {"detectable": seen}])
    assert [(row["seen by"], row["planted in the others"], row["least seen"]) for row in rows] == [
        ("R2 of usage", "nothing", "none up to 0.03"),
        ("features of one kind alone (strict rule)", "1/4 of it", 0.01),
    ]
    assert rows[0]["tries"] == "0.03: 3 of 5"
    unknown = NAMED | {"unknown": "why", "without_dictionary": [], "catalogue": []}
    assert kinds_tables.graded([unknown]) == kinds_tables.catalogue([unknown]) == []


def test_doses_stand_in_rows_and_p_beside_the_first() -> None:
    rows = [
        {
            "dose": 1.0,
            "kind": "dense",
            "from_least": None,
            "spent_differently": None,
            "within": 0.1,
        },
        {"dose": 8.0, "kind": "moe", "from_least": 0.3, "spent_differently": 0.2, "within": 0.1},
    ]
    judged = {"observed": 0.4, "p": 0.01}
    unknown = NAMED | {"unknown": "why"}
    found = kinds_tables.by_dose([NAMED | {"rows": rows, "judged": judged}, unknown])
    assert [(row["model"], row["distance"], row["p"]) for row in found] == [
        ("dense", None, 0.01), ("moe", 0.3, None),
    ]  # fmt: skip


def test_external_rows_are_told_by_split_and_rows_kept_once() -> None:
    external = {"theirs": {"array": "h", "fit": ["a", "b"], "validation": "c"}}
    assert tables.external_rows(external) == [
        {"model": "theirs", "split": "fit", "array": "h", "read from": "a, b"},
        {"model": "theirs", "split": "validation", "array": "h", "read from": "c"},
    ]
    about = {"model": "moe", "seed": 0, "split": "fit", "tokens": 100, "rows": 90,
             "left_out": {"special_tokens": 10}, "share_left_out": {"special_tokens": 0.1},
             "alignment": None}  # fmt: skip
    row = {"source": "moe.0", "split": "fit", "tokens": 100, "rows": 90, "special tokens": 0.1}
    assert tables.rows_kept([{"rows": [about]}, {"rows": [about]}]) == [row]
    aligned = about | {"alignment": {"share_kept": 0.8, "word_ends": 0.5, "word_ends_kept": 0.6}}
    (row,) = tables.rows_kept([{"rows": [aligned]}])
    assert (row["share kept"], row["word ends"], row["word ends kept"]) == (0.8, 0.5, 0.6)


def test_what_dictionary_seeds_move_stands_with_its_mean() -> None:
    about = {"comparison": "c", "member": "moe.0_moe.1_dense.0_dense.1", "recipe": "r"}
    rows = [about | {"number": name, "seeds": [0, 1], "values": [1, 2], "mean": 1.5, "sd": 0.7}
            for name in kinds_tables.NUMBERS]  # fmt: skip
    found = kinds_tables.by_seeds(rows)
    assert found[0] == {
        "panel": "c: moe.0-1 + dense.0-1, r", "number": "features of one kind alone (strict rule)",
        "dictionary seeds": 2, "mean": 1.5, "standard deviation": 0.7,
    }  # fmt: skip
    assert len({row["number"] for row in found}) == 4
    judged = {"kind": EITHER, "observed": 1.0}
    strict = {"judged": [judged | {"statistic": name} for name in ("share", "features")]}
    graded = {"judged": [{"statistic": name, "observed": 1.0, "excess_over_mean": 0.1}
                         for name in ("r2", "total_variation")]}  # fmt: skip
    names = {**over_seeds.exclusive_numbers(strict), **over_seeds.graded_numbers(graded)}
    assert set(names) == set(kinds_tables.NUMBERS)


def test_a_study_has_only_the_tables_that_have_rows() -> None:
    study = {"claims": [], "withheld": [], "sensitivity": []}
    counted = {"rows": [], "error_rates": []}
    fve = dict.fromkeys(tables.EXPLAINED, 0.5)
    metrics = [NAMED | {"sources": ["moe.0"], "fve": [fve], "rows": []}]
    found = tables.of_study(study, [], [], [], [], counted, metrics, {"moe": {"total": 7}}, {}, {})
    assert found == {
        "Fraction of validation variance explained": [{"dictionary": CALLED, **fve}],
        "Models: parameters": [{"model": "moe", "total": 7}],
    }


def test_analyses_are_told_by_first_and_second_model_whatever_their_kind() -> None:
    row = {key: number for number, key in enumerate(tables.SENSITIVITY.values())}
    (shown,) = tables.sensitivity(
        {"sensitivity": [row | {"moe_only_feature_share": 0.25, "more": 1}]}
    )
    assert shown["share only in first"] == 0.25
    assert list(shown) == list(tables.SENSITIVITY)
