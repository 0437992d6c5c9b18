from snakemake.utils import min_version

min_version("9.27")


# A config named with --configfile stands alone; without one the embedded default is read.
if not workflow.config_settings.configfiles:

    configfile: f"{workflow.basedir}/config/config.yaml"


include: "rules/common.smk"


# Rows that other code wrote need no text and no model.
if "corpus" in config:

    include: "rules/corpus.smk"
    include: "rules/models.smk"
    include: "rules/activations.smk"
    include: "rules/reruns.smk"


include: "rules/rows.smk"
include: "rules/dictionaries.smk"
include: "rules/metrics.smk"
include: "rules/exchange.smk"
include: "rules/report.smk"
include: "rules/planted.smk"


rule all:
    default_target: True
    input:
        result("fve.json"),
        result("report.html"),
