# The member of a comparison that wildcards name: its sources and their shards. What cannot be had is refused.


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
            known = dict.fromkeys(fit_folder(f) for f in FITS if f.member == member)
            refuse(fit_folder(fit), f"not fitted by this config, but {', '.join(known)}")
    return member


def asked_for(wildcards):
    """The folder of the dictionary that the wildcards name, for a message."""
    return fit_folder(settings.Fit(member_of(wildcards), wildcards.recipe, wildcards.seed))


def pair_shards(wildcards):
    """Validation shards of two sources: only these have classes of features."""
    member = member_of(wildcards)
    if len(member.sources) != 2:
        refuse(asked_for(wildcards), "only two sources have classes of features")
    return shards_of(member, "validation")


def panel_shards(wildcards):
    """Validation shards of a panel."""
    member = member_of(wildcards)
    if not settings.is_panel(config, member):
        names = ", ".join(source.name for source in member.sources)
        refuse(
            asked_for(wildcards),
            f"a panel has several models of each of two kinds (comparison: all), not {names}",
        )
    return shards_of(member, "validation")


def anchor_shards(split):
    """Input function: shards of several sources, which alone can be predicted from each other."""

    def found(wildcards):
        member = member_of(wildcards)
        if len(member.sources) < 2:
            refuse(
                f"{member.comparison}/{member.name}/anchor.parquet",
                "an anchor needs several sources",
            )
        return shards_of(member, split)

    return found


def routed_shards(wildcards):
    """Validation shards of a member, where the named source can have stored experts."""
    model = one_source(wildcards).model
    dense = model in TRAINED and config["models"][model]["train"]["experts"] == 1
    if dense or config["activations"]["routing"] == "none":
        refuse(
            f"{asked_for(wildcards)}/experts/{wildcards.source}",
            "no experts are stored; take an MoE, and set activations.routing to used",
        )
    return shards_of(member_of(wildcards), "validation")


def shards_of(member, split):
    """The shards of every source of a member, source by source."""
    return [path for source in member.sources for path in activation_shards(source, split)]


def member_shards(split):
    """Input function: the shards of the member that the wildcards name."""
    return lambda wildcards: shards_of(member_of(wildcards), split)


def source_names(wildcards):
    return [source.name for source in member_of(wildcards).sources]


def source_points(wildcards):
    """The hook point of every source; None: the only one that its shards have."""
    return [source.point for source in member_of(wildcards).sources]


def source_views(wildcards):
    """How a control shows the rows of every source; None: as they are."""
    return [source.view for source in member_of(wildcards).sources]
