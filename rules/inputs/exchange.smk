# Which dictionary a layout is made of.


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
        normalise = recipes.normalisation(config["recipes"][wildcards.recipe])
        if why := recipes.export_fault(layout, normalise):
            refuse(asked_for(wildcards), why)
        return result(fit_of(wildcards).path("dictionary.safetensors"))

    return found
