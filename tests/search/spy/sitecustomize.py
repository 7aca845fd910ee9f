"""Loaded by every Python of a search under test, since its folder is on PYTHONPATH.

Notes each optimiser step in PGSEARCH_SPY_LOG, as `uid epoch step pid`; and, where asked, makes
steps slow (PGSEARCH_SPY_SECONDS), lets one trial take all memory (PGSEARCH_SPY_HOG, a uid) or run
into a bug (PGSEARCH_SPY_BUG, a uid).
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from types import ModuleType
from typing import Any

MODULE = "pgsearch.training.fit"


def spy_on(module: ModuleType) -> None:
    step = module._Run._step

    def noted(self: Any, *args: Any) -> Any:
        line = f"{self.trial.uid} {self.epoch} {self.iteration} {os.getpid()}\n"
        log = os.open(os.environ["PGSEARCH_SPY_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, line.encode())
        os.close(log)
        time.sleep(float(os.environ.get("PGSEARCH_SPY_SECONDS", "0")))
        if self.trial.uid == os.environ.get("PGSEARCH_SPY_BUG"):
            raise ZeroDivisionError("a bug of the user's code")
        hoard = []
        while self.trial.uid == os.environ.get("PGSEARCH_SPY_HOG"):
            hoard.append(bytearray(50_000_000))
            hoard[-1][::4096] = b"x" * len(hoard[-1][::4096])
            time.sleep(0.02)
        return step(self, *args)

    module._Run._step = noted


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_spy(module: ModuleType) -> None:
            execute(module)
            spy_on(module)

        loader.exec_module = execute_and_spy
        return spec


if "PGSEARCH_SPY_LOG" in os.environ:
    sys.meta_path.insert(0, Finder())
