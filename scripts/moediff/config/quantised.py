"""Quantised checkpoints: which there are, and what reads them.

`quantization_config` of a checkpoint's config.json names a method. transformers reads most of them
by a package of their own, and one that it does not know as if the weights were plain.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

# Name to install -> module to import, where the two differ.
_MODULES = {
    "compressed-tensors": "compressed_tensors",
    "optimum-quanto": "optimum.quanto",
    "spqr_quant[gpu]": "spqr_quant",
    "amd-quark": "quark",
    "auto-round": "auto_round",
    "flute-kernel": "flute",
    "fbgemm-gpu": "fbgemm_gpu",
}
# Method -> packages that transformers needs to read it.
METHODS: dict[str, tuple[str, ...]] = {
    "aqlm": ("accelerate", "aqlm"),
    "auto-round": ("auto-round",),
    "awq": ("accelerate", "gptqmodel"),
    "bitnet": ("accelerate",),
    "bitsandbytes": ("accelerate", "bitsandbytes"),
    "compressed-tensors": ("accelerate", "compressed-tensors"),
    "fbgemm_fp8": ("accelerate", "fbgemm-gpu"),
    "fouroversix": ("fouroversix",),
    "fp8": ("accelerate",),
    "fp_quant": ("fp_quant",),
    "gemma": (),
    "gptq": ("optimum", "gptqmodel"),
    "higgs": ("accelerate", "flute-kernel", "fast_hadamard_transform"),
    "hqq": ("hqq",),
    "metal": (),
    "mxfp4": (),
    "mxfp8": ("accelerate",),
    "quanto": ("accelerate", "optimum-quanto"),
    "quark": ("amd-quark",),
    "sinq": ("sinq",),
    "spqr": ("accelerate", "spqr_quant[gpu]"),
    "torchao": ("torchao",),
    "vptq": ("accelerate", "vptq"),
}
# Whose weights transformers can make plain as it loads them. Else it would take kernels of the Hub.
DEQUANTISED = ("fp8", "mxfp8", "mxfp4", "metal")
# Read by kernels that are code of the Hub alone, or, so far, not at all.
_REFUSED = {
    "eetq": "transformers runs it by code of the Hub, which is not run here",
    "gguf": "transformers reads it from a .gguf file alone; name that file in load",
    "nvfp4": "transformers does not read it yet",
}


def missing_packages(packages: tuple[str, ...]) -> list[str]:
    """Those of the packages that this Python does not have."""
    return [name for name in packages if not _importable(_MODULES.get(name, name))]


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what it lies in is missing
        return False


def quantisation(config: Mapping[str, Any]) -> Any:
    """`quantization_config` of a config.json, its own or its text part's; None where nothing is quantised."""
    text = config.get("text_config")
    parts = [config, text] if isinstance(text, Mapping) else [config]
    found = [part.get("quantization_config") for part in parts]
    return next((settings for settings in found if settings is not None), None)


def method_of(settings: Any) -> str | None:
    """The method that a `quantization_config` names; bitsandbytes may name none."""
    if not isinstance(settings, Mapping):
        return None
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    method = settings.get("quant_method")
    return method if isinstance(method, str) else None


def fault(config: Mapping[str, Any]) -> str | None:
    """Why the weights that a config.json describes cannot be read here, as one clause; else None."""
    settings = quantisation(config)
    if settings is None:
        return None
    method = method_of(settings)
    if method in _REFUSED:
        return f"quantised ({method}); {_REFUSED[method]}"
    if method is None or method not in METHODS:
        named = "no method" if method is None else f"the method {method}"
        return (
            f"quantization_config names {named}, and transformers reads none of that name; take an "
            "unquantised copy"
        )
    missing = missing_packages(METHODS[method])
    if missing:
        return (
            f"quantised ({method}); needs the package{'s' * (len(missing) > 1)} "
            f"{' and '.join(missing)}; install {'them' if len(missing) > 1 else 'it'} or take an "
            "unquantised copy"
        )
    return None
