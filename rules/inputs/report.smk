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


def plot_files(name):
    return [result(f"plots/{name}.{kind}") for kind in FORMATS]


NO_PAIR = "no comparison is of two models; write each: [A, B]"
# Files of the tables that charts need, and what this config lacks where a table has none.
CHART_TABLES = {
    "panels": (
        [result("panel.json")] if panel_files("panel.json") else [],
        "no comparison is a panel; write all: [A, B], with two seeds of each or more",
    ),
    "histories": (histories(), "no model is trained here"),
    "ngrams": (ngrams(), "no model reads text"),
    "fve": ([result("fve.json")], ""),
    "classes": ([result("classes.json")] if has_pairs() else [], NO_PAIR),
    "features": (pair_file("features.parquet"), NO_PAIR),
    "null_features": (null_features(), ""),
    "splicing": (
        pair_file("splicing.parquet") if RERUN else [],
        "no comparison is of two models that can be run again; write each: [A, B]",
    ),
    "affinity": (
        pair_file(f"experts/{ROUTED.name}/affinity.parquet") if ROUTED else [],
        "of no comparison of two models is the first an MoE trained here, its experts stored",
    ),
    "planted": ([result("planted.parquet")], ""),
}


def lacking(chart):
    """What this config lacks for a chart; empty where it has all."""
    tables = (CHART_TABLES[table] for table in CHARTS[chart].needs)
    return next((what for files, what in tables if not files), "")


CHART_JOBS = list(dict.fromkeys(CHARTS[name].job for name in CHARTS if not lacking(name)))
PLOTS = [name for name in CHARTS if CHARTS[name].on_page and not lacking(name)]


def charts_of(job):
    """Charts that one job draws, of those that this config has the tables for."""
    return [name for name in CHARTS if CHARTS[name].job == job and not lacking(name)]


def chart_files(job):
    """The tables of a job's charts, by name."""
    tables = [t for name in charts_of(job) for t in (*CHARTS[name].needs, *CHARTS[name].also)]
    return {table: CHART_TABLES[table][0] for table in tables}


def chart_settings():
    """What charts are told beside their tables, as `moediff.report.charts.draw` has it."""
    fit = PAIR or FITS[0]
    return {
        "drawn": [fit.member.comparison, fit.member.name, fit.recipe, fit.seed],
        "bounds": config["features"]["bounds"],
        "histories": [[model, seed] for model in TRAINED for seed in settings.seeds(config, model)],
    }
