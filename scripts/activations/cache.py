"""Cache the activations of one model on one token shard or several, and the routing on the way."""

from moediff.job import job, model_and_texts, state_folder

with job(snakemake, torch_threads=True) as log:
    import os
    from pathlib import Path

    from moediff.activations import caching
    from moediff.core import artifact, preemption
    from moediff.hooks.points import Point
    from moediff.models import suitability

    params, outputs = snakemake.params, [Path(path) for path in snakemake.output]
    model, facts, texts = model_and_texts(snakemake, len(outputs))
    measured = caching.read_points(snakemake.input.points, facts["digest"])
    points = {name: Point(found["hook"], found["layer"]) for name, found in measured.items()}
    # Of several shards each waits here, whole, until all are: a job that is killed goes on at the next.
    waiting = []
    for output, part, (shard, kept) in zip(outputs, params.parts, texts, strict=True):
        name = f"{params.model}.{params.seed} {part}"
        suitability.check_context(model, shard.tokens.shape[1], params.model)
        path = output
        if len(outputs) > 1:
            known = [
                facts["digest"],
                measured,
                params.reading,
                params.across,
                params.chunk_rows,
                shard.digest,
            ]
            path = state_folder(snakemake, "shard", name, known, params.version) / output.name
            waiting.append((path, output))
        if path.exists():
            log.info("%s: was made already", output)
            continue
        count = caching.cache(
            model,
            caching.Reading(points, params.reading["routing"]),
            caching.stored_points(measured, params.reading["drop"]["massive_norm"]),
            shard,
            kept,
            params.across,
            params.reading["dtype"],
            params.batch,
            params.chunk_rows,
            path,
            artifact.made_by("activations", model=facts["digest"]),
            name,
        )
        log.info("%s: %d rows", output, count)
    preemption.too_late()  # a job that fails loses its outputs, and with them what waited
    for path, output in waiting:
        os.utime(path)  # an output is newer than what it was made of
        artifact.move_whole(path, output)
        path.parent.rmdir()
