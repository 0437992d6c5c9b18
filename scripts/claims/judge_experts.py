"""What an MoE's experts say of every claim about them that was fixed before they were measured."""

from moediff.job import job

with job(snakemake) as log:
    from pathlib import Path

    from moediff.claims import assembly, expert_findings, fixing, judging
    from moediff.claims.reading import EXPERTS
    from moediff.config import layout
    from moediff.core import artifact

    found, claims = snakemake.input, snakemake.params.claims
    seeds, losses = [], {}
    for paths in zip(found.lens, found.fewer_experts, found.routing, strict=True):
        lens, fewer = (artifact.read_parquet(path) for path in paths[:2])
        where = layout.parse("moe", paths[0])
        losses[layout.run_name(where["model"], where["seed"])] = expert_findings.loss(fewer)
        seeds.append(expert_findings.expert_values(lens, fewer, artifact.read_json(paths[2])))
    withheld = judging.weak_models(claims["limits"], losses, assembly.trigram(found.ngrams))
    measured, primary = expert_findings.expert_findings(seeds), {"moe": claims["primary"]["moe"]}
    judged = judging.judge(claims | {"primary": primary}, measured, primary, withheld)
    digest, results = claims["digest"], Path(snakemake.config["results"])
    told = {
        "claims_digest": digest,
        "exploratory": fixing.exploratory(results, digest, EXPERTS),
        "losses": losses,
    }
    artifact.write_json(snakemake.output[0], artifact.made_by("claims") | judged | told)
    if told["exploratory"]:
        log.warning("Verdicts are exploratory: %s", told["exploratory"])
    for row in judged["claims"]:
        log.info("%s: %s (%s)", row["id"], row["verdict"], row["reason"])
