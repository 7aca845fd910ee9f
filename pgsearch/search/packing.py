"""What each trial occupies where the spec says `auto`: what one was measured to need."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pgsearch.config import SearchSpec, TrialSpec
from pgsearch.config.search import AUTO
from pgsearch.search.placement import Node, Share, count_places

MOST_ON_A_GPU: Final = 8
"""Trials that a measured share places on one GPU, however small they are: its arithmetic and the
node's CPUs are used up before. Who measured that more pay gives a number."""

_MARGIN = 1.15  # the test split may need more than the epoch that was measured
_STEP = 1.25  # shares that differ by little would each need workers of their own
_NO_NEED_OF_MEMORY = frozenset(
    {
        "epochs",
        "learning_rate",
        "momentum",
        "weight_decay",
        "warmup_iterations",
        "warmup_ratio",
        "decay_epochs",
        "decay_factor",
        "clip_norm",
        "sampler",
        "sampler_reduce",
        "sampler_repeat",
        "iterations_per_epoch",
        "photometric",
        "crop_min",
        "flip",
        "validate_every",
        "test_every",
        "checkpoint_every",
    }
)
"""Settings of a training that leave its memory as it is."""


class Packing:
    """Turns `auto` into numbers: trials of one kind need what one of them was measured to need.

    A kind is what memory depends on: data, model, batches. The first trials of a kind occupy a
    whole GPU, or the memory of a whole node, each. What they report with their first epoch becomes
    the share of all that follow; what a later epoch adds raises it, and running out of memory
    doubles it.

    Args:
        spec: the search.
        nodes: where its trials run.
    """

    def __init__(self, spec: SearchSpec, nodes: Sequence[Node]) -> None:
        self._asked = spec.resources
        self.is_auto = AUTO in (spec.resources.gpus, spec.resources.memory_gb)
        holds_one = [node for node in nodes if node.cpus >= spec.resources.cpus]
        has_gpu = any(node.gpus >= 1 or node.grows for node in nodes)
        wants_gpu = spec.training.device == "cuda" or (spec.training.device == "auto" and has_gpu)
        self._whole_gpus = float(wants_gpu)
        memories = [node.memory_bytes for node in holds_one if node.memory_bytes]
        self._node_bytes = min(memories, default=math.inf)  # of workers that are still to come
        self._gpu_bytes = math.inf  # of the smallest GPU that was seen
        self._needs: dict[str, dict[str, float]] = {}
        """By kind, bytes of the GPU and of the node; a measurement holds both."""

    def share(self, trial: TrialSpec) -> Share:
        """Return what a trial is to occupy now."""
        return self._of(self._needs.get(_kind(trial)))

    def at_first(self) -> Share:
        """Return what a trial occupies before anything is measured."""
        return self._of(None)

    def at_most_packed(self) -> Share:
        """Return the least that a trial may come to occupy."""
        gpus = self._whole_gpus / MOST_ON_A_GPU
        return self._concrete(gpus=gpus, memory_gb=None)

    def learn(self, trial: TrialSpec, report: Mapping[str, Any]) -> bool:
        """Take what a trial of this kind needed so far; True where that changes its share.

        Args:
            trial: the trial.
            report: `memory_bytes`, of the node; and of its GPU, `gpu_bytes` and `gpu_total_bytes`,
                both 0 without one.
        """
        kind = _kind(trial)
        before = self.share(trial)
        known = self._needs.setdefault(kind, {"gpu_bytes": 0.0, "memory_bytes": 0.0})
        for name in known:
            known[name] = max(known[name], float(report[name]))
        if report["gpu_total_bytes"]:
            self._gpu_bytes = min(self._gpu_bytes, float(report["gpu_total_bytes"]))
        return self.share(trial) != before

    def ran_out(self, trial: TrialSpec) -> None:
        """Double what trials of this kind are to occupy: one had too little."""
        known = self._needs.get(_kind(trial))
        if known is not None:
            for name in known:
                known[name] *= 2

    def in_words(self, trial: TrialSpec, nodes: Sequence[Node]) -> str:
        """Return what was measured of a kind, and what follows."""
        need, share = self._needs[_kind(trial)], self.share(trial)
        parts = []
        if self._asked.gpus == AUTO and share.gpus:
            parts.append(
                f"{need['gpu_bytes'] / 1e9:.1f} of the {self._gpu_bytes / 1e9:.0f} GB of a GPU "
                f"(gpus: {share.gpus:g})"
            )
        if self._asked.memory_gb == AUTO:
            parts.append(
                f"{need['memory_bytes'] / 1e9:.1f} GB of memory (memory_gb: {share.memory_gb:g})"
            )
        return f"needs {' and '.join(parts)}: {count_places(nodes, share)} run at a time"

    def _of(self, need: dict[str, float] | None) -> Share:
        gpus, memory_bytes = self._whole_gpus, self._node_bytes
        if need is not None:
            memory_bytes = min(memory_bytes, _rounded_up(_MARGIN * need["memory_bytes"]))
            if need["gpu_bytes"] and gpus:
                fit = self._gpu_bytes // (_MARGIN * need["gpu_bytes"])
                gpus = share_of(max(1, min(MOST_ON_A_GPU, int(fit))))
        if math.isinf(memory_bytes):
            return self._concrete(gpus=gpus, memory_gb=None)
        # Rounded down, since no node has more than its whole memory.
        return self._concrete(gpus=gpus, memory_gb=math.floor(memory_bytes / 1e7) / 100)

    def _concrete(self, *, gpus: float, memory_gb: float | None) -> Share:
        asked = self._asked
        return Share(
            cpus=asked.cpus,
            gpus=gpus if asked.gpus == AUTO else asked.gpus,
            memory_gb=memory_gb if asked.memory_gb == AUTO else asked.memory_gb,
            custom=asked.custom,
        )


def share_of(num_trials: int) -> float:
    """Return the share of a GPU so that so many fit, in Ray's steps of 1/10,000."""
    return math.floor(10_000 / num_trials) / 10_000


def _rounded_up(num_bytes: float) -> float:
    return float(_STEP ** math.ceil(math.log(max(num_bytes, 1.0), _STEP)))


def _kind(trial: TrialSpec) -> str:
    dumped = trial.model_dump(mode="json", include={"data", "model", "training"})
    for name in _NO_NEED_OF_MEMORY:
        dumped["training"].pop(name, None)
    return json.dumps(dumped, sort_keys=True)
