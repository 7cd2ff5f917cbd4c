"""Builds device.cpp against the installed PyTorch, without importing it."""

import importlib.util
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("device.cpp")
COMPILER = "g++"
LIBRARY = "PRETEND_GPU"  # the environment's name of a library that is built already


def build(folder: Path) -> Path:
    """The library, in `folder`."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    torch, library = Path(spec.origin).parent, folder / "pretend.so"
    where = [f"-I{torch}/include", f"-L{torch}/lib", f"-Wl,-rpath,{torch}/lib", "-lc10", "-ltorch_cpu"]
    command = [COMPILER, "-std=c++20", "-w", "-shared", "-fPIC", str(SOURCE), *where, "-o", str(library)]
    subprocess.run(command, check=True)
    return library
