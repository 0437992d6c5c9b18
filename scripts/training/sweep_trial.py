"""One trial of the sweep over peak learning rates: fewer tokens, judged on others of the train split."""

from moediff.job import job, state_folder, state_root

JUDGED = 100_000  # tokens at most, the last of the train split

with job(snakemake, torch_threads=True) as log:
    from dataclasses import replace

    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.core.errors import Diverged
    from moediff.corpus.token_shards import TokenSplit
    from moediff.corpus.tokenizer import read_vocabulary
    from moediff.training import inits, loop
    from moediff.training.history import final_losses
    from moediff.training.plan import Plan

    params, rate = snakemake.params, float(snakemake.wildcards.rate)
    name = f"{snakemake.wildcards.model} at {rate}"
    train = TokenSplit(snakemake.input.train, params.across, state_root(snakemake))
    if params.training["domains"]:
        train = train.only(params.training["domains"])
    judged = max(1, min(len(train) // 10, JUDGED // train.tokens.shape[1]))
    judge = train.part(slice(len(train) - judged, None))
    train = train.part(slice(0, len(train) - judged))
    plan = replace(
        Plan.of(params.training, rate, params.seed),
        sequences=max(1, params.sweep_tokens // train.tokens.shape[1]),
        epochs=1,
        evaluations=1,
    )
    vocabulary = read_vocabulary(snakemake.input.vocabulary)
    device = pick_device(snakemake.config["device"])
    init = params.training.get("init", {})
    start = inits.Start(
        params.architecture, vocabulary.size, train.tokens.shape[1], vocabulary.end_of_text,
        params.seed, snakemake.input.init[0] if init else None,
    )  # fmt: skip
    model = inits.begin(init, start)
    inputs = [train.digest, judge.digest]
    facts = {"architecture": params.architecture, "plan": plan.facts(), "inputs": inputs}
    facts |= inits.provenance(init, start)
    state = state_folder(snakemake, "trial", name, facts, params.version, device.type)
    try:
        history = loop.train(model, plan, train, judge, state, device, name)
        loss = final_losses(history)["all"]
        log.info("%s: %.4f nats a token on unseen text", name, loss)
    except Diverged as error:  # a rate too high is a finding of the sweep, not its end
        log.info("%s", error)
        loss = None
    artifact.write_json(
        snakemake.output[0],
        artifact.made_by("models", seed=params.seed, **facts)
        | {"peak_lr": rate, "cross_entropy": loss},  # null: no longer finite
    )
