"""Train one language model from scratch."""

from pathlib import Path

from _job import job

with job(snakemake, torch_threads=True) as log:
    from dataclasses import asdict, replace

    from moediff import artifact, checkpoint, devices, models, training
    from moediff.tokens import TokenSplit, read_vocabulary

    params, seed = snakemake.params, int(snakemake.wildcards.seed)
    name = f"{snakemake.wildcards.model}.{seed}"
    if snakemake.input.get("rate"):
        rate = artifact.read_json(snakemake.input.rate[0])["peak_lr"]
    else:
        rate = params.training["peak_lr"]
    train = TokenSplit(snakemake.input.train, params.across)
    if params.training["domains"]:
        train = train.only(params.training["domains"])
    plan = training.Plan.of(params.training, rate, seed)
    if params.training["share"] < 1:
        plan = replace(plan, sequences=round(params.training["share"] * len(train)))
    validation = TokenSplit(snakemake.input.validation, params.across)
    vocabulary = read_vocabulary(snakemake.input.vocabulary)
    device = devices.pick_device(snakemake.config["device"])
    model = models.build(
        params.architecture, vocabulary.size, train.tokens.shape[1], vocabulary.end_of_text, seed
    )
    counts = models.count_parameters(model)
    log.info("%s: %s parameters, %s active", name, f"{counts.total:,}", f"{counts.active:,}")
    inputs = [train.digest, validation.digest, vocabulary.digest]
    facts = {"architecture": params.architecture, "plan": asdict(plan), "inputs": inputs}
    state = checkpoint.state_folder(
        snakemake.config["results"], "train", name, facts, params.version, device.type
    )
    history = training.train(model, plan, train, validation, state, device, name)
    folder = Path(snakemake.output.weights).parent
    models.save(model.cpu(), folder)
    made_by = artifact.made_by("models", seed=seed, **facts)
    artifact.write_parquet(snakemake.output.history, history, made_by)
    models.write_manifest(snakemake.output.manifest, model, folder, ".", "float32", made_by)
