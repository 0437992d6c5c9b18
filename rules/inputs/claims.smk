# What claims are about: panels of the primary analysis, and those whose answer is known.


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
    return reading.penalties_fault(
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
