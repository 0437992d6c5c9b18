from snakemake.utils import min_version

min_version("9.27")


# A config named with --configfile stands alone; without one the embedded default is read.
if not workflow.config_settings.configfiles:

    configfile: f"{workflow.basedir}/config/config.yaml"


include: "rules/common.smk"


# External activations need no text and no model.
if "corpus" in config:

    include: "rules/corpus.smk"
    include: "rules/models.smk"
    include: "rules/training.smk"
    include: "rules/experts.smk"


include: "rules/activations.smk"
include: "rules/dictionaries.smk"
include: "rules/exchange.smk"
include: "rules/analysis.smk"
include: "rules/claims.smk"
include: "rules/synthetic.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        result("fve.json"),
        result("report.html"),
        at("stages", format="html"),
