"""The workers of the trials that Tune runs: which are stuck, and which go with their node."""

import time
from collections.abc import Iterator
from typing import Any

import ray

SECONDS_BETWEEN_LOOKS = 2.0


class Workers:
    """Looks at the workers in every turn of Tune's loop.

    Args:
        max_epoch_seconds: how long a trial may take from its start or one epoch to the next; None
            is without end.
    """

    def __init__(self, max_epoch_seconds: float | None) -> None:
        self._limit = max_epoch_seconds
        self._trials: dict[str, Any] = {}
        """Tune's trials, by its id."""
        self._progress: dict[str, float] = {}
        """When each that runs was seen to begin, or to end an epoch."""
        self._nodes: dict[str, str] = {}
        """Node of the worker of each that runs."""
        self._draining: set[str] = set()
        """Nodes that are, or were, about to be taken away."""
        self._look_due = 0.0

    def add(self, trial: Any) -> None:
        """Look at a trial of Tune's from now on."""
        self._trials[trial.trial_id] = trial

    def remove(self, trial_id: str) -> None:
        """Look at it no more."""
        for known in (self._trials, self._progress, self._nodes):
            known.pop(trial_id, None)

    def got_on(self, trial_id: str) -> None:
        """Take notice of an epoch."""
        self._progress[trial_id] = time.monotonic()

    def look(self) -> None:
        """See who began to run, and which nodes are about to go. Cheap: now and then it looks."""
        if time.monotonic() < self._look_due:
            return
        self._look_due = time.monotonic() + SECONDS_BETWEEN_LOOKS
        for trial_id, trial in self._trials.items():
            if trial.status == "RUNNING" and trial_id not in self._nodes:
                self._progress.setdefault(trial_id, time.monotonic())
                node = _node_of(trial.temporary_state.ray_actor)
                if node is not None:
                    self._nodes[trial_id] = node
        self._draining |= ray._private.state.state.get_draining_nodes().keys()

    def end_stuck(self) -> Iterator[tuple[str, str]]:
        """End the workers of trials without an epoch for too long; yields id and reason of each."""
        if self._limit is None:
            return
        overdue = time.monotonic() - self._limit
        for trial_id in [i for i, since in self._progress.items() if since < overdue]:
            actor = self._trials[trial_id].temporary_state.ray_actor
            if actor is not None:
                self._progress[trial_id] = time.monotonic()
                ray.kill(actor)
                yield (
                    trial_id,
                    f"no epoch within max_epoch_seconds={self._limit:g}, so it was ended",
                )

    def was_preempted(self, trial_id: str) -> bool:
        """Whether the node of a trial's worker was about to be taken away."""
        self._look_due = 0.0
        self.look()
        return self._nodes.get(trial_id) in self._draining


def _node_of(actor: Any) -> str | None:
    """Return the node that an actor is on, None where Ray does not know it yet."""
    if actor is None:
        return None
    address = ray._private.state.actors(actor._actor_id.hex()).get("Address") or {}
    return address.get("NodeID") or None
