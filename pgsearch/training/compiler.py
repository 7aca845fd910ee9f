"""What `torch.compile` needs of a machine beside torch itself.

Asked without importing torch, so that each node of a cluster can tell before a search begins.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig

from pgsearch.errors import UsageError

SECONDS = 10.0
_SOURCE = "#include <Python.h>\n#include <vector>\n"
"""What the code that torch writes includes."""


def why_no_compiler(*, gpu: bool) -> str | None:
    """Return what is missing for `training.compile: true` on this machine, and what helps.

    Args:
        gpu: whether it is for a network on a GPU.
    """
    if gpu and importlib.util.find_spec("triton") is None:
        return "on a GPU it needs Triton, which is not installed: pip install triton"
    if (problem := _problem_of_compiler()) is None:
        return None
    return (
        f"it needs a C++ compiler and the headers of Python, and {problem}: install them (apt "
        "install g++ python3-dev), or name another compiler with the environment variable CXX"
    )


def require_compiler(*, gpu: bool) -> None:
    """Raise UsageError where this machine lacks what `training.compile: true` needs."""
    if (problem := why_no_compiler(gpu=gpu)) is not None:
        raise UsageError(f"training.compile: true: {problem}; or set training.compile: false")


def _problem_of_compiler() -> str | None:
    # As torch chooses it.
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        return f"{name} is not found"
    headers = sysconfig.get_path("include")
    try:
        tried = subprocess.run(
            [name, "-x", "c++", "-fsyntax-only", f"-I{headers}", "-"],
            input=_SOURCE,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None  # a machine that is busy; what is wrong, if anything is, a trial will tell
    except OSError as error:
        return f"{name} cannot be run ({error})"
    if tried.returncode == 0:
        return None
    said = tried.stderr.strip().splitlines()
    wrong = next((line for line in said if "error" in line), *said[:1]) if said else "no reason"
    return f"{name} fails on a file that includes Python.h ({wrong.strip()})"
