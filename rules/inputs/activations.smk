# Which shards of activations there are, and what they are read from.


# Asked for each of a hundred thousand shards, and the same for all of a model.
@cache
def reading_of(model):
    """What decides which activations of a model a row is; layers as the config gives them."""
    return {
        "drop": settings.dropped(config, model),
        **{key: config["activations"][key] for key in ("dtype", "routing")},
        "points": settings.points(config),
    }


def reading_settings(wildcards):
    return reading_of(wildcards.model)


@cache
def own_tokenizers():
    return settings.own_tokenizers(config)


def token_files(model, split, shard):
    """A token shard as a model reads it, and the same text by every other tokenizer."""
    own = own_tokenizers()
    found = {None: token_shard(split, shard)}
    found |= {name: at("retokenised", model=name, split=split, shard=int(shard)) for name in own}
    mine = found.pop(model if model in own else None)
    return [mine, *found.values()]


def tokens_of(wildcards):
    """The token files of a job; of the first fit shard where it has none."""
    split, shard = wildcards.get("split", "fit"), wildcards.get("shard", 0)
    return token_files(wildcards.model, split, shard)


def token_files_of(shared):
    """The token files of shards that share a job, shard by shard."""
    return [file for part in shared.parts for file in token_files(shared.model, *part)]


def activation_shards(source, split):
    return [
        at("activations", model=source.model, seed=source.seed, split=split, shard=shard)
        for shard in range(settings.model_shards(config, source.model, split))
    ]


def split_shards(wildcards):
    """The activation shards of one model and split."""
    return activation_shards(settings.Source(wildcards.model, wildcards.seed), wildcards.split)


def shard_file(**values):
    """An activation shard; a temporary one where the disk is too small to keep all."""
    path = at("activations", **values)
    return path if config["activations"]["keep"] else temp(path)


def row_manifests(wildcards):
    """What was kept of every source of a member, split by split."""
    sources = dict.fromkeys((s.model, s.seed) for s in member_of(wildcards).sources)
    return [
        at("manifest", model=model, seed=seed, split=split)
        for model, seed in sources
        for split in settings.ROW_SPLITS
    ]


def rows_path(wildcards):
    """The file or folder of external activations that a shard is made of; of the first fit shard without one."""
    split, shard = wildcards.get("split", "fit"), int(wildcards.get("shard", 0))
    return settings.row_paths(config, wildcards.model, split)[shard]


def rows_files(wildcards):
    """The same, file by file: an edited one is read again."""
    return local(settings.row_files(rows_path(wildcards)))


def all_rows_files():
    """Every file of external activations."""
    return [
        file
        for name in EXTERNAL
        for split in settings.ROW_SPLITS
        for path in settings.row_paths(config, name, split)
        for file in local(settings.row_files(path))
    ]


def rows_array(wildcards):
    return config["models"][wildcards.model]["rows"]["array"]


def rows_domains(wildcards):
    return settings.row_domains(config, wildcards.model)


def rows_settings():
    """Where the external activations are read from, for the report."""
    return {name: config["models"][name]["rows"] for name in EXTERNAL}


def forward_work_of(model, splits):
    """Parameters times tokens of the pass over a shard of each of these splits."""
    parameters = resources.model_mb(config, model) * resources.MEGABYTE / 4
    return parameters * sum(resources.shard_tokens(config, split) for split in splits)


def any_shard():
    """What `needs` is told of every shard: the largest of any model. All members of an array job get what
    the first asks for."""
    largest = resources.largest_shard(config, LANGUAGE_MODELS)
    return {name: lambda _, value=value: value for name, value in largest.items()}
