# What is drawn, and whose features can be looked through.


PAIR = roles.drawn_pair(FITS, PRIMARY)
RERUN = PAIR and all(source.model in LANGUAGE_MODELS for source in PAIR.member.sources)
ROUTED = roles.routed_sources(config, PAIR)
SHOWN = roles.shown(FITS, PAIR)
FORMATS = ("html", "svg", "png")


def example_files():
    return files_of([fit for fit in SHOWN if roles.has_text(config, fit)], "examples.parquet")


def figure_files():
    """The figures of every dictionary of the page but the pair, whose own are plots."""
    return files_of([fit for fit in SHOWN if fit != PAIR], "figures.json")


def pair_file(name):
    """A file of the dictionary whose features are drawn; none without one."""
    return files_of([PAIR], name) if PAIR else []


def pair_baseline(name):
    """What is measured of the sources of the pair without a dictionary; none without a pair."""
    if not PAIR:
        return []
    member = PAIR.member
    return [at("baseline", comparison=member.comparison, member=member.name, file=name)]


def moved_file():
    """How far the rows of the pair lie apart, where they share a basis."""
    return pair_baseline("moved.parquet") if roles.share_a_basis(config, PAIR) else []


def divergence_file():
    """How far the predictions of the pair lie apart, where the page says it."""
    return pair_baseline("divergence.parquet") if roles.tells_divergence(config, PAIR) else []


def routed_files(name):
    """A file of the experts of each source of the pair that has some, or may have."""
    return [result(PAIR.path(name, source.name)) for source in ROUTED]


def null_of(wildcards):
    """The features of the first null dictionary of every model of the dictionary that is named."""
    fit = fit_of(wildcards)
    return files_of(roles.first_null_of_each(fit, FITS), "features.parquet")


def null_features():
    """The features of the first null dictionary of every model."""
    return files_of(roles.first_null_of_each(PAIR, FITS), "features.parquet") if PAIR else []


def plot_files(name):
    return [at("plot", chart=name, format=kind) for kind in FORMATS]


NO_PAIR = "no comparison is of two models; write each: [A, B]"
NO_PANEL = "no comparison is a panel; write all: [A, B], with two seeds of each or more"
# Panels graded, and trends with a dose; charts are of panels alone.
KINDS_FILES = (
    [result("kinds.json")] if roles.panels(config, FITS) or roles.dosed(config, FITS) else []
)
# The MoE whose experts are drawn: the first of the study.
MOE = next(
    ((model, settings.seeds(config, model)[0]) for model in moes()),
    None,
)


def moe_file(name):
    """A file of the MoE whose experts are drawn; none without one."""
    return [at("moe", model=MOE[0], seed=MOE[1], file=name)] if MOE else []


NO_MOE = "no model of this config has experts"
# Files of the tables that charts need, and what this config lacks where a table has none.
CHART_TABLES = {
    "panels": ([result("panel.json")] if roles.panels(config, FITS) else [], NO_PANEL),
    "kinds": ([result("kinds.json")] if roles.panels(config, FITS) else [], NO_PANEL),
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
        routed_files("affinity.parquet"),
        "no comparison of two models has an MoE whose experts are stored",
    ),
    "planted": ([result("planted.parquet")], ""),
    "shares": (moe_file("shares.parquet"), NO_MOE),
    "moe_record": (moe_file("routing.json"), NO_MOE),
    "lens": (moe_file("lens.parquet"), NO_MOE),
    "fewer_experts": (moe_file("fewer_experts.parquet"), NO_MOE),
    "prune": (moe_file("prune.parquet"), NO_MOE),
}


def lacking(chart):
    """What this config lacks for a chart; empty where it has all."""
    tables = (CHART_TABLES[table] for table in CHARTS[chart].needs)
    return next((what for files, what in tables if not files), "")


CHART_JOBS = list(dict.fromkeys(CHARTS[name].job for name in CHARTS if not lacking(name)))
# One dictionary alone has no frontier: the chart is drawn and not shown.
LONELY = (
    {"frontier"} if len([f for f in FITS if PAIR is None or f.member == PAIR.member]) < 2 else set()
)
PLOTS = [
    name for name in CHARTS if CHARTS[name].on_page and not lacking(name) and name not in LONELY
]


def charts_of(job):
    """Charts that one job draws, of those that this config has the tables for."""
    return [name for name in CHARTS if CHARTS[name].job == job and not lacking(name)]


def chart_files(job):
    """The tables of a job's charts, by name."""
    tables = [t for name in charts_of(job) for t in (*CHARTS[name].needs, *CHARTS[name].also)]
    return {table: CHART_TABLES[table][0] for table in tables}


def settings_of_chart(fit):
    """What charts of a dictionary are told beside their tables, as `moediff.report.charts.draw` has it."""
    return {
        "drawn": [fit.member.comparison, fit.member.name, fit.recipe, fit.seed],
        "bounds": config["features"]["bounds"],
    }


def chart_settings(job):
    """The same of the charts of the whole study that a job draws."""
    own = {"moe": list(MOE)} if job == "moe_lens" and MOE else {}
    return (
        own
        | settings_of_chart(PAIR or FITS[0])
        | {
            "histories": [
                [model, seed] for model in TRAINED for seed in settings.seeds(config, model)
            ],
            "routed": [source.name for source in ROUTED],
        }
    )


HISTORIES = [*histories(), *files_of(FITS, "history.parquet")]
RUNS = [str(Path(path).parent.relative_to(config["results"])) for path in HISTORIES]


def event_histories(wildcards):
    """Every history; refused where TensorBoard, which writes the event files, is not installed."""
    return refuse("tensorboard", events.lacking()) if events.lacking() else HISTORIES


def _domains_seen(model):
    """The domains that a model learns from, where these are not all."""
    return config["models"][model].get("sees", {}).get("domains")


def of_study():
    """What the page says of the study as it was asked for, as `moediff.report.compared` reads it."""
    models = {
        name: {
            "kind": settings.kind(config, name).name,
            "from": config["models"][name].get("load"),
            "seeds": len(settings.seeds(config, name)),
            "tokenizer": config["models"][name].get("tokenizer", "corpus"),
            **{
                key: config["models"][name][key]
                for key in ("kept",)
                if key in config["models"][name]
            },
            **({"domains": domains} if (domains := _domains_seen(name)) else {}),
        }
        for name in config["models"]
    }
    fitted_by = {
        name: {key: recipe[key] for key in ("features", "k", "normalise")}
        for name, recipe in config["recipes"].items()
    }
    comparisons = {
        name: {"sides": one.get("each") or one["all"], "together": "all" in one}
        | {key: one[key] for key in ("control", "recipes")}
        for name, one in config["comparisons"].items()
    }
    return {
        "models": models,
        "points": settings.points(config) if LANGUAGE_MODELS else [],
        "recipes": fitted_by,
        "comparisons": comparisons,
        "pair": PAIR.path() if PAIR else None,
        "left_out": [fit.path() for fit in FITS if fit not in SHOWN],
    }
