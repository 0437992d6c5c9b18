# What decides a dictionary, and which files of which dictionaries there are.


def settings_of(fit):
    """What decides a dictionary; its preset is spelled out already."""
    recipe = config["recipes"][fit.recipe]
    return {
        "name": f"{fit.member.comparison}/{fit.member.name}/{fit.recipe}",
        "recipe": {k: v for k, v in recipe.items() if k not in ("seeds", "preset")},
        "seed": fit.seed,
    }


def fit_settings(wildcards):
    fit = settings.Fit(member_of(wildcards), wildcards.recipe, int(wildcards.seed))
    return [settings_of(fit)]


def fit_folder(fit):
    return f"dictionaries/{fit.member.comparison}/{fit.member.name}/{fit.recipe}/seed-{fit.seed}"


def dictionary_files(fit):
    """What the fit of a dictionary writes, in order."""
    names = ("dictionary.safetensors", "early.safetensors", "history.parquet")
    return [result(f"{fit_folder(fit)}/{name}") for name in names]


def fit_files(name, sources=None):
    """A file of every dictionary, or of those with `sources` sources."""
    return [
        result(f"{fit_folder(fit)}/{name}")
        for fit in FITS
        if sources in (None, len(fit.member.sources))
    ]


def pair_files(name):
    """A file of every dictionary over two models as they are."""
    return [
        result(f"{fit_folder(fit)}/{name}")
        for fit in FITS
        if len(fit.member.sources) == 2 and not any(source.view for source in fit.member.sources)
    ]


def has_pairs():
    return any(len(fit.member.sources) == 2 for fit in FITS)


def panel_files(name):
    """A file of every dictionary that is a panel."""
    return [
        result(f"{fit_folder(fit)}/{name}") for fit in FITS if settings.is_panel(config, fit.member)
    ]


def primary_panel_files(name):
    """The same of those that claims are about: of the primary recipe and models, with most seeds."""
    models = {PRIMARY["moe"], PRIMARY["dense"]}
    found = [
        fit
        for fit in FITS
        if settings.is_panel(config, fit.member)
        and fit.recipe == PRIMARY["recipe"]
        and models == {source.model for source in fit.member.sources}
    ]
    most = max((len(fit.member.sources) for fit in found), default=0)
    return [result(f"{fit_folder(fit)}/{name}") for fit in found if len(fit.member.sources) == most]


def known_panel_files(name):
    """The same of panels whose answer is known: models that learned all text, and models that did not."""
    whole = set(whole_learners())
    return [
        result(f"{fit_folder(fit)}/{name}")
        for fit in FITS
        if settings.is_panel(config, fit.member)
        and fit.recipe == PRIMARY["recipe"]
        and (models := {source.model for source in fit.member.sources}) <= set(TRAINED)
        and len(models & whole) == 1
    ]


def penalties_fault():
    """Why the two recipes that claims compare do not tell what their ratio of penalties does; empty: they do."""
    return claims.penalties_fault(
        *(config["recipes"].get(CLAIMS["penalties"][side]) for side in ("strong", "weak"))
    )


def analysis():
    """What decides how claims were measured, by the keys of the primary analysis."""
    recipe = config["recipes"].get(PRIMARY["recipe"], {})

    def named(kind):
        """The model that claims call so, unless the config trains one of the other kind under its name."""
        model = config["models"].get(PRIMARY[kind])
        several = "train" in (model or {}) and model["train"]["experts"] > 1
        other = model is None or ("train" in model and several != (kind == "moe"))
        return None if other else PRIMARY[kind]

    return {
        "moe": named("moe"),
        "dense": named("dense"),
        "hook": config["activations"]["hook"],
        "layer": config["activations"]["layer"],
        "recipe": PRIMARY["recipe"] if recipe else None,
        "features": recipe.get("features"),
        "k": recipe.get("k"),
        "bounds": config["features"]["bounds"],
        "user_floor": config["features"]["user_floor"],
    }


def member_kinds(wildcards):
    return settings.kinds(member_of(wildcards))


def exported(layout):
    """Input function: the dictionary that a layout is to hold, refused where it cannot."""

    def found(wildcards):
        sources = len(member_of(wildcards).sources)
        if layout == "saelens" and sources > 1:
            refuse(
                asked_for(wildcards),
                "SAELens holds one source; export it as a crosscoder or for the Hub",
            )
        if layout == "crosscoder" and sources == 1:
            refuse(
                asked_for(wildcards),
                "a crosscoder has several sources; export it for SAELens or the Hub",
            )
        return result(f"{asked_for(wildcards)}/dictionary.safetensors")

    return found
