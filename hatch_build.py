"""Builds the native kernel when the package is installed. Without a compiler the install goes on.

The kernel is an accelerator: everything works without it, by torch alone.
"""

import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("serving/engine/native/kernels.cpp")
# C++20, and products contracted to fused ones; each library for what its name says.
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=fast", "-Wno-psabi")
FLAGS += ("-static-libstdc++", "-static-libgcc")  # of OpenMP the one that torch brings is used
LIBRARIES = {
    "avx512": ("-march=x86-64-v4", "-mavx512bf16"),
    "avx2": ("-march=x86-64-v3",),
}


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles `kernels.cpp` for each kind of processor, beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put whatever could be built into the wheel, editable or not."""
        if self.target_name != "wheel":
            return
        built = [name for name, flags in LIBRARIES.items() if self._compile(name, flags)]
        if built:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["artifacts"] += [f"{SOURCE.parent}/{name}.so" for name in built]

    def _compile(self, name: str, flags: tuple[str, ...]) -> bool:
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
        folder = Path(self.root) / SOURCE.parent
        library = folder / f"{name}.so"
        if not compiler or platform.machine() != "x86_64" or platform.system() != "Linux":
            self.app.display_warning("rootstock: no native kernel; the engine computes by torch")
            return False
        aside = folder / f".{name}.{os.getpid()}.so"
        source = str(folder / SOURCE.name)
        command = [*shlex.split(compiler), *FLAGS, *flags, "-o", str(aside), source]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            self.app.display_warning(f"rootstock: {name} kernel not built: {said[-500:]}")
            aside.unlink(missing_ok=True)
            library.unlink(missing_ok=True)  # of an older source
            return False
        aside.replace(library)  # whole or not at all: another process may be loading it
        return True
