# What is drawn, and whose features can be looked through.


def drawn_pair():
    """The dictionary over two models whose features are drawn: the first, of the primary recipe and models where
    there are such; None without one."""
    wanted = (PRIMARY["moe"], PRIMARY["dense"], PRIMARY["recipe"])
    pairs = [
        fit
        for fit in FITS
        if len(fit.member.sources) == 2
        and not any(source.view for source in fit.member.sources)
        and len({source.model for source in fit.member.sources}) == 2
    ]
    first = [fit for fit in pairs if (*(s.model for s in fit.member.sources), fit.recipe) == wanted]
    return next(iter(first + pairs), None)


def null_of(pair):
    """The dictionaries of the same recipe over two seeds of one of its models."""
    models = {source.model for source in pair.member.sources}
    return [
        fit
        for fit in FITS
        if fit.recipe == pair.recipe
        and len(fit.member.sources) == 2
        and not any(source.view for source in fit.member.sources)
        and len(own := {source.model for source in fit.member.sources}) == 1
        and own < models
    ]


def routed_source(pair):
    """The first source of a pair where it is an MoE that was trained here, else None: its experts are drawn."""
    model = pair.member.sources[0].model if pair else None
    routed = model in TRAINED and config["models"][model]["train"]["experts"] > 1
    return pair.member.sources[0] if routed and config["activations"]["routing"] != "none" else None


PAIR = drawn_pair()
RERUN = PAIR and all(source.model in LANGUAGE_MODELS for source in PAIR.member.sources)
ROUTED = routed_source(PAIR)
PLOTS = ["panel"] if panel_files("panel.json") else []
PLOTS += ["training"] if TRAINED else []
PLOTS += ["fve", "frontier"]
PLOTS += ["classes"] if has_pairs() else []
PLOTS += ["relative-norm", "density", "scaling"] if PAIR else []
PLOTS += ["domains"] if RERUN else []
PLOTS += ["affinity"] if ROUTED else []
FORMATS = ("html", "svg", "png")


def browsed():
    """The dictionaries to look through on the page, whose text is known: the pair that is drawn, and the first SAE
    of each of its models; the first of all where there is no pair."""
    models = {source.model for source in PAIR.member.sources} if PAIR else set()
    saes = {}
    for fit in FITS:
        source, *others = fit.member.sources
        if not others and source.model in models and fit.recipe == PAIR.recipe:
            saes.setdefault(source.model, fit)
    found = [PAIR, *saes.values()] if PAIR else FITS[:1]
    return [
        fit
        for fit in found
        if all(s.model not in FOREIGN and not s.view for s in fit.member.sources)
    ]


def browsed_files(name):
    return [result(f"{fit_folder(fit)}/{name}") for fit in browsed()]


def pair_file(name):
    """A file of the dictionary whose features are drawn; none without one."""
    return [result(f"{fit_folder(PAIR)}/{name}")] if PAIR else []


def null_features():
    """The features of the first null dictionary of every model."""
    found = {fit.member.sources[0].model: fit for fit in reversed(null_of(PAIR) if PAIR else [])}
    return [result(f"{fit_folder(fit)}/features.parquet") for fit in found.values()]


def panel_json(wildcards):
    """What every panel found; refused where there is none to draw."""
    if not panel_files("panel.json"):
        refuse(
            result("plots/panel.svg"),
            "no comparison is a panel; write all: [A, B], with two seeds of each or more",
        )
    return result("panel.json")


def plot_files(name):
    return [result(f"plots/{name}.{kind}") for kind in FORMATS]
