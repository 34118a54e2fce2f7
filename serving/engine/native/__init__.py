"""The native kernel: finds the library that fits this processor, and calls it. Knows pointers.

`kernels.cpp` beside this file is built when the package is installed and a compiler is there
(`hatch_build.py`). Without a library `load` gives None, and the lanes do the same work in torch.
"""

import ctypes
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

log = logging.getLogger(__name__)

FORMAT: Final = 4  # of programs and structs; a library of another is not used
SWITCH: Final = "ROOTSTOCK_NATIVE"  # "0" in this variable: do without; "avx2": that one or none
LIBRARIES: Final = ("avx512", "avx2")
NOTHING, NORM, GELU = range(3)
_HERE: Final = Path(__file__).parent
_KINDS: Final = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def _struct(name: str, **fields: Any) -> type[ctypes.Structure]:
    """A struct of kernels.cpp: `type="field field"` in the order of its fields."""
    kinds = {"n": ctypes.c_int64, "p": ctypes.c_void_p, "d": ctypes.c_double}
    listed = [(f, kinds[kind[0]]) for kind, names in fields.items() for f in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": listed})


Stage = _struct(
    "Stage",
    n1="samples tokens width",
    p1="x stream out",
    n2="between",
    p2="weight bias",
    d1="eps",
    p3="after before rows codes_in codes_out",
    n3="in_width out_width",
)
Pixels = _struct("Pixels", n1="samples height width patch", p1="pixels out scale shift")
Attention = _struct("Attention", n1="samples tokens heads width queries", p1="qkv out", d1="scale")
Heads = _struct("Heads", n1="samples features", p1="vectors weight bias labels start out")


@dataclass(frozen=True, slots=True)
class Kernel:
    """The calls of a library, for tokens of one type."""

    name: str
    dtype: torch.dtype
    stage: Any
    pixels: Any
    attention: Any
    heads: Any


def load(dtype: torch.dtype) -> Kernel | None:
    """The kernel for tokens of this type, or None where it was not built or is switched off."""
    wanted = os.environ.get(SWITCH, "")
    if wanted == "0" or dtype not in _KINDS:
        return None
    if wanted not in {"", *LIBRARIES}:
        log.warning("%s is 0 or one of %s, not %r: ignored", SWITCH, ", ".join(LIBRARIES), wanted)
        wanted = ""
    for name in fitting():
        path = _HERE / f"{name}.so"
        if not path.exists() or wanted not in {"", name}:
            continue
        try:
            library = ctypes.CDLL(str(path))  # the OpenMP it needs is the one torch has loaded
        except OSError as error:  # built for another system
            log.warning("the native kernel does not load: %s", error)
            continue
        if library.rootstock_native_format() != FORMAT:
            log.warning("the native kernel %s was built from another source; install again", name)
            continue
        kind = _KINDS[dtype]
        calls = [library[f"rootstock_{c}_{kind}"] for c in ("stage", "pixels", "attention")]
        calls.append(library.rootstock_heads)
        for call in calls:
            call.restype = None
        return Kernel(name, dtype, *calls)
    return None


def fitting() -> list[str]:
    """Libraries that this processor can run, the best first."""
    has = torch.cpu.get_capabilities()
    wide = ("avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl", "avx512_bf16")
    names = ["avx512"] if all(has.get(flag) for flag in wide) else []
    return [*names, "avx2"] if has.get("avx2") and has.get("fma3") else names
