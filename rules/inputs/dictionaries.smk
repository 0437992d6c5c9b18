# What decides a dictionary, the member of a comparison that wildcards name, its sources and their shards.


def settings_of(fit):
    """What decides a dictionary."""
    return {
        "name": f"{fit.member.comparison}/{fit.member.name}/{fit.recipe}",
        "recipe": recipes.deciding(config["recipes"][fit.recipe]),
        "seed": fit.seed,
    }


def fit_of(wildcards):
    """The dictionary that the wildcards name; refused where the config has no such one."""
    return settings.Fit(member_of(wildcards), wildcards.recipe, int(wildcards.seed))


def fit_settings(wildcards):
    return [settings_of(fit_of(wildcards))]


def dictionary_files(fit):
    """What the fit of a dictionary writes, in order."""
    names = ("dictionary.safetensors", "early.safetensors", "history.parquet")
    return [result(fit.path(name)) for name in names]


def member_of(wildcards):
    """The member that the wildcards name; refused where the config has no such dictionary."""
    asked = f"{wildcards.comparison}/{wildcards.member}"
    member = MEMBERS.get((wildcards.comparison, wildcards.member))
    if member is None:
        known = [name for comparison, name in MEMBERS if comparison == wildcards.comparison]
        refuse(asked, f"that comparison has {', '.join(known) or 'no dictionaries'}")
    if "recipe" in wildcards.keys():
        fit = settings.Fit(member, wildcards.recipe, int(wildcards.seed))
        if fit not in FITS:
            known = dict.fromkeys(f.path() for f in FITS if f.member == member)
            refuse(fit.path(), f"not fitted by this config, but {', '.join(known)}")
    return member


def asked_for(wildcards):
    """The folder of the dictionary that the wildcards name, for a message."""
    return fit_of(wildcards).path()


def shards_of(member, split):
    """The shards of every source of a member, source by source."""
    return [path for source in member.sources for path in activation_shards(source, split)]


def member_shards(split):
    """Input function: the shards of the member that the wildcards name."""
    return lambda wildcards: shards_of(member_of(wildcards), split)


def normalised(way):
    """What the name of a file says of rows that are normalised: nothing where they are as stored."""
    return "" if way == recipes.NONE else f"-{way}"


NORMALISED = [
    normalised(way) for way in SCHEMA["$defs"]["recipe"]["properties"]["normalise"]["enum"]
]


def components_of(wildcards):
    """The principal components of a dictionary's rows, normalised as its recipe's."""
    middle = normalised(config["recipes"][wildcards.recipe]["normalise"])
    member = member_of(wildcards)
    return at(
        "baseline",
        comparison=member.comparison,
        member=member.name,
        file=f"components{middle}.safetensors",
    )


def source_names(wildcards):
    return [source.name for source in member_of(wildcards).sources]


def source_points(wildcards):
    """The hook point of every source; None: the only one that its shards have."""
    return [source.point for source in member_of(wildcards).sources]


def source_views(wildcards):
    """How a control shows the rows of every source; None: as they are."""
    return [source.view for source in member_of(wildcards).sources]


# --- resources ---


def dictionary_weights(wildcards):
    return resources.dictionary_mb(config, member_of(wildcards), wildcards.recipe)


def together_weights(fits):
    return sum(resources.dictionary_mb(config, fit.member, fit.recipe) for fit in fits)


def together_work(fits):
    """Parameters times rows of fits that share a job."""
    return sum(
        resources.dictionary_mb(config, fit.member, fit.recipe)
        * resources.MEGABYTE
        / 4
        * config["recipes"][fit.recipe]["rows"]
        for fit in fits
    )


def fit_work(wildcards):
    return together_work([fit_of(wildcards)])
