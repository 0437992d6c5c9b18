# What is drawn, and whose features can be looked through.


PAIR = roles.drawn_pair(FITS, PRIMARY)
RERUN = PAIR and all(source.model in LANGUAGE_MODELS for source in PAIR.member.sources)
ROUTED = roles.routed_source(config, PAIR)
PLOTS = ["panel"] if roles.panels(config, FITS) else []
PLOTS += ["training"] if TRAINED else []
PLOTS += ["fve", "frontier"]
PLOTS += ["classes"] if roles.with_sources(FITS, 2) else []
PLOTS += ["relative-norm", "density", "scaling"] if PAIR else []
PLOTS += ["domains"] if RERUN else []
PLOTS += ["affinity"] if ROUTED else []
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


def panel_json(wildcards):
    """What every panel found; refused where there is none to draw."""
    if not roles.panels(config, FITS):
        refuse(
            at("plot", chart="panel", format="svg"),
            "no comparison is a panel; write all: [A, B], with two seeds of each or more",
        )
    return result("panel.json")


def plot_files(name):
    return [at("plot", chart=name, format=kind) for kind in FORMATS]
