# What documents, tokenizer and token shards are made of. The user's own files are `local` here and elsewhere:
# read where the config says that they lie, wherever results go.


def domain_settings(wildcards):
    """What a domain's documents are; how many are read is `domain_bytes`."""
    settings_of = config["corpus"]["domains"][wildcards.domain]
    return {k: v for k, v in settings_of.items() if k not in ("weight", "megabytes")}


def domain_files(wildcards):
    """The user's own text files: an edited or a new one reads the domain again."""
    return local(settings.text_files(config, wildcards.domain))


def largest_file(input):
    """Megabytes of the largest file of a domain, as far as it lies here: a plain text is one document."""
    sizes = [Path(file).stat().st_size for file in input if Path(file).is_file()]
    return max(sizes, default=0) / resources.MEGABYTE


def domain_bytes(wildcards):
    return settings.text_bytes(config, wildcards.domain)


def corpus_files():
    return [at("documents", domain=domain) for domain in DOMAINS]


def tokenizer_sources(wildcards):
    """A trained tokenizer reads the corpus, a pretrained one its folder when it is local."""
    tokenizer = config["corpus"]["tokenizer"]
    if "train" in tokenizer:
        return corpus_files()
    return local(settings.tokenizer_files(tokenizer["load"]))


def token_shard(split, shard):
    return at("tokens", split=split, shard=int(shard))


def token_shards(split):
    return [token_shard(split, shard) for shard in range(settings.shard_count(config, split))]
