"""Train one language model, from scratch or from the weights that it begins with."""

from pathlib import Path

from moediff.job import job, state_folder

with job(snakemake, torch_threads=True) as log:
    from dataclasses import replace

    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.corpus.token_shards import TokenSplit
    from moediff.corpus.tokenizer import read_vocabulary
    from moediff.models import loading, parameters
    from moediff.training import inits, loop
    from moediff.training.plan import Plan

    params, seed = snakemake.params, int(snakemake.wildcards.seed)
    name = f"{snakemake.wildcards.model}.{seed}"
    if snakemake.input.get("rate"):
        rate = artifact.read_json(snakemake.input.rate[0])["peak_lr"]
    else:
        rate = params.training["peak_lr"]
    train = TokenSplit(snakemake.input.train, params.across)
    if params.training["domains"]:
        train = train.only(params.training["domains"])
    plan = Plan.of(params.training, rate, seed)
    if params.training["share"] < 1:
        plan = replace(plan, sequences=round(params.training["share"] * len(train)))
    validation = TokenSplit(snakemake.input.validation, params.across)
    vocabulary = read_vocabulary(snakemake.input.vocabulary)
    device = pick_device(snakemake.config["device"])
    init = params.training.get("init", {})
    start = inits.Start(
        params.architecture, vocabulary.size, train.tokens.shape[1], vocabulary.end_of_text, seed,
        snakemake.input.init[0] if init else None,
    )  # fmt: skip
    model = inits.begin(init, start)
    counts = parameters.count_parameters(model)
    log.info("%s: %s parameters, %s active", name, f"{counts.total:,}", f"{counts.active:,}")
    inputs = [train.digest, validation.digest, vocabulary.digest]
    facts = {"architecture": params.architecture, "plan": plan.facts(), "inputs": inputs}
    facts |= inits.provenance(init, start)
    state = state_folder(snakemake, "train", name, facts, params.version, device.type)
    keep = list(params.get("keep", []))
    history = loop.train(model, plan, train, validation, state, device, name, keep)
    folder = Path(snakemake.output.weights).parent
    loading.save(model.cpu(), folder)
    made_by = artifact.made_by("models", seed=seed, **facts)
    artifact.write_parquet(snakemake.output.history, history, made_by)
    loading.write_manifest(snakemake.output.manifest, model, folder, ".", "float32", made_by)
    for step, manifest in zip(keep, snakemake.output.get("kept", []), strict=True):
        loop.take_kept(model, state, step)
        loading.save(model, Path(manifest).parent)
        loading.write_manifest(
            manifest, model, Path(manifest).parent, ".", "float32", made_by | {"step": step}
        )
