"""What a claim can be about."""

from __future__ import annotations

# Of lambda_s to lambda_f: the paper's, and one of those that did not work.
STRONG_RATIO, WEAK_RATIO = 0.7, 0.15
FIDELITY = ("faithful", "adapted")
# What a claim can be about; here of dictionaries. A is the MoE, B the dense model; pairs are averaged over
# dictionary seeds.
METRICS = {
    # levels, a mean over pairs
    "fve_pooled": "FVE of the crosscoder, threshold mode, pooled over its sources",
    "fve_gain_last_quarter": "FVE at the end of fitting less that after 75 % of it",
    "fve_gain_shared_penalty": "FVE with lambda_s / lambda_f = 0.7 less that with 0.15",
    "moe_only_feature_share": "A-only features over A-only, common and B-only ones",
    "dense_only_feature_share": "B-only features over A-only, common and B-only ones",
    "common_feature_share": "common features over A-only, common and B-only ones",
    "relative_norm_side_modes": "height of the lowest of three modes over the highest bin of all; 20 bins: "
    "two outer ones (highest bin of relative norm in [0, 0.1) and (0.9, 1]) above the lowest bin between "
    "it and 0.5, and the highest bin between these lowest ones above the higher of them",
    "common_cosine_median": "median decoder cosine of common features",
    "common_cosine_negative_share": "share of common features whose decoder cosine is below -0.9",
    "tied_cosine_lowest": "lowest decoder cosine of a dictionary's features tied by direction",
    # contrasts of kinds, of every ordered pair of models
    "log2_moe_only_over_dense_only": "log2 of A-only over B-only features, each count plus one half",
    "density_order_margin": "the two steps below, each judged by itself: of both the smaller effect",
    "density_moe_only_over_common": "log10 median density of A-only features less that of common ones",
    "density_common_over_dense_only": "log10 median density of common features less that of B-only ones",
    "domain_share_moe_only_less_dense_only": "mean top-domain share of A-only less B-only features",
    # excess of pairs of two kinds over pairs of one
    "exclusive_variance_excess": "share of variance that goes with A-only and B-only features, in pairs of "
    "two kinds less in pairs of one kind",
    # the panel
    "panel_moe_only_variance": "mean share of the MoEs' variance that goes with features used by every MoE "
    "and no dense model",
    "panel_dense_only_variance": "mean share of the dense models' variance that goes with features used by "
    "every dense model and no MoE",
    "panel_either_variance": "mean of the two shares",
    "panel_moe_only_loss": "mean share of the MoEs' recovered loss that goes with features used by every "
    "MoE and no dense model",
}  # fmt: skip
# Of MoEs alone, seed by seed; over all text where no domain is named.
OF_EXPERTS = {
    "one_expert_cost": "nats a token that one expert in every layer costs, gates as routed: log of a ratio "
    "of perplexities",
    "cost_fall_an_expert": "log of the factor by which that cost falls with one expert more, mean of the "
    "steps from two experts to all but one",
    "top1_cosine_with_stream": "cosine of the heaviest expert's output and of all routed experts', each "
    "added to the stream, largest over layers",
    "top1_cosine_with_layer": "cosine of the heaviest expert's output added to the stream and of what leaves "
    "the layer, largest over layers",
    "top1_cosine_over_chosen": "cosine, without the stream, of the heaviest expert's output and of all "
    "routed experts', less that of one of the chosen experts at random, mean over layers",
    "busiest_expert_tokens": "share of a domain's tokens that use its busiest expert, largest over layers "
    "and domains",
    "experts_for_half_of_slots": "experts that take half of a domain's slots over all experts, mean over "
    "layers and domains",
    "domain_information_within_token": "nats that experts tell of domains within token ids, less the mean of "
    "its null, mean over layers",
}
METRICS |= OF_EXPERTS
# Orders of several groups: the steps from one to the next, metrics that all must go the claimed way.
ORDERS = {
    "density_order_margin": ("density_moe_only_over_common", "density_common_over_dense_only"),
}
# From 0 to 1, so that 0 in every model has an upper bound.
SHARES = {
    "moe_only_feature_share", "dense_only_feature_share", "common_feature_share", "relative_norm_side_modes",
    "common_cosine_negative_share",
}  # fmt: skip
