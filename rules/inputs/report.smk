# What is drawn, and whose features can be looked through.


PAIR = roles.drawn_pair(FITS, PRIMARY)
RERUN = PAIR and all(source.model in LANGUAGE_MODELS for source in PAIR.member.sources)
ROUTED = roles.routed_source(config, PAIR)
FORMATS = ("html", "svg", "png")


def browsed_files(name):
    return files_of(roles.browsed(config, FITS, PAIR), name)


def pair_file(name):
    """A file of the dictionary whose features are drawn; none without one."""
    return files_of([PAIR], name) if PAIR else []


def routed_file(name):
    """A file of the experts that are drawn; none where the pair has no MoE whose experts are stored."""
    return [result(PAIR.path(name, ROUTED.name))] if ROUTED else []


def null_features():
    """The features of the first null dictionary of every model."""
    return files_of(roles.first_null_of_each(PAIR, FITS), "features.parquet") if PAIR else []


def plot_files(name):
    return [at("plot", chart=name, format=kind) for kind in FORMATS]


NO_PAIR = "no comparison is of two models; write each: [A, B]"
# Files of the tables that charts need, and what this config lacks where a table has none.
CHART_TABLES = {
    "panels": (
        [result("panel.json")] if roles.panels(config, FITS) else [],
        "no comparison is a panel; write all: [A, B], with two seeds of each or more",
    ),
    "histories": (histories(), "no model is trained here"),
    "ngrams": (ngrams(), "no model reads text"),
    "fve": ([result("fve.json")], ""),
    "classes": ([result("classes.json")] if roles.with_sources(FITS, 2) else [], NO_PAIR),
    "features": (pair_file("features.parquet"), NO_PAIR),
    "null_features": (null_features(), ""),
    "splicing": (
        pair_file("splicing.parquet") if RERUN else [],
        "no comparison is of two models that can be run again; write each: [A, B]",
    ),
    "affinity": (
        routed_file("affinity.parquet"),
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
