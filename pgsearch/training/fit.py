"""Training one trial, epoch by epoch. It does not know who asks, nor where results go."""

import contextlib
import dataclasses
import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pgsearch.class_groups import class_groups
from pgsearch.config import TrialSpec
from pgsearch.data.build import build_dataset
from pgsearch.data.loader import batches
from pgsearch.data.samplers import ClassAwareSampler, UniformSampler
from pgsearch.errors import InvalidData, NonFiniteLoss, StorageError
from pgsearch.losses.build import build_loss
from pgsearch.metrics import ProbabilityMeter
from pgsearch.models.build import build_model, model_statistics, weights_fingerprint
from pgsearch.results.schema import EpochRecord
from pgsearch.results.scores import ImageScores
from pgsearch.training.device import choose_device, peak_memory_bytes
from pgsearch.training.evaluate import Evaluation, compute_logits, evaluate
from pgsearch.training.features import cached_features, shared_trunk
from pgsearch.training.inputs import FeatureInputs, ImageInputs, Inputs
from pgsearch.training.optim import build_optimiser, learning_rate


class CheckpointStore(Protocol):
    """Where the newest state of a trial is kept."""

    def load(self) -> dict[str, Any] | None:
        """Return the newest state, or None."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace it."""


def fit(
    trial: TrialSpec,
    *,
    report: Callable[[EpochRecord], None],
    checkpoints: CheckpointStore | None = None,
    save_scores: Callable[[Mapping[str, ImageScores], tuple[str, ...]], None] | None = None,
) -> None:
    """Train a trial to its last epoch, from its newest checkpoint if there is one.

    After each epoch the state is checkpointed, with the epoch's record in it, and then the record
    is reported. A kill between the two loses nothing: a resumed trial reports the record of its
    checkpoint again before it goes on, and who records it keeps the first. A resumed trial equals
    one that was never interrupted, bit for bit on a CPU.

    Args:
        trial: what to train.
        report: called with each epoch's record; it may raise to end the trial.
        checkpoints: where to keep the state; None keeps none.
        save_scores: is given the scores of the last epoch by split, and the class names.

    Raises:
        NonFiniteLoss: a loss, gradient or score is not finite; names epoch, step and factors.
        InvalidData: the images, labels or weights break a rule.
        StorageError: the checkpoint cannot be read or written.
    """
    run = _Run(trial)
    state = checkpoints.load() if checkpoints else None
    if state is not None:
        report(EpochRecord(**run.restore(state)))
    while run.epoch < trial.training.epochs:
        record = run.train_epoch()
        last = run.epoch == trial.training.epochs
        if save_scores and last:  # before the state that a resume would end with
            save_scores(run.scores, run.data.class_names)
        if checkpoints and (last or run.epoch % trial.training.checkpoint_every == 0):
            checkpoints.save(run.state(record))
        report(record)


class _Run:
    """All that changes while a trial trains, and the data it trains on."""

    def __init__(self, trial: TrialSpec) -> None:
        self.trial = trial
        config = trial.training
        self.device = choose_device(config.device)
        if self.device.type == "cpu":
            torch.set_num_threads(trial.threads)
        self.data = build_dataset(trial.data)
        self.data.check()
        counts_C = self.data.class_counts_C
        self.groups_C = class_groups(
            counts_C, head_min=trial.data.head_min, tail_below=trial.data.tail_below
        )
        self.weights_fingerprint = weights_fingerprint(trial.model)
        self.classifier, self.network, self.inputs = self._build_network()
        self.loss = self._build_loss(epoch=1)  # a count that it cannot use is an error now
        self.optimiser = build_optimiser(self.network.parameters(), config)
        self.sampler = self._build_sampler()
        self.drawn = np.empty(0, dtype=np.int64)  # by the sampler, for epochs to come
        self.epoch = 0
        self.iteration = 0
        self.scores: dict[str, ImageScores] = {}  # of the newest evaluation, by split

    def _build_network(self) -> tuple[nn.Module, nn.Module, Inputs]:
        """Return the classifier, what of it is trained, and what that is shown."""
        trial, config, data = self.trial, self.trial.training, self.data
        frozen = config.trunk == "frozen"
        trunk = shared_trunk(trial.model, self.device) if frozen else None
        torch.manual_seed(trial.seed)  # initial weights and dropout
        classifier = build_model(
            trial.model,
            class_names=data.class_names,
            train_targets_NC=data.train.targets_NC,
            trunk=trunk,
        ).to(self.device)
        if config.channels_last:
            classifier.to(memory_format=torch.channels_last)
        if frozen:
            head = nn.Sequential(OrderedDict(neck=classifier.neck, head=classifier.head))
            features = cached_features(trial, data, self.device)
            return classifier, head, FeatureInputs(features, self.device)
        statistics = model_statistics(trial.model)
        images = ImageInputs(data, statistics, config, seed=trial.seed, device=self.device)
        return classifier, classifier, images

    def _build_sampler(self) -> ClassAwareSampler | UniformSampler:
        config, train = self.trial.training, self.data.train
        sampler: ClassAwareSampler | UniformSampler = (
            ClassAwareSampler(
                train.targets_NC,
                seed=self.trial.seed,
                reduce=config.sampler_reduce,
                num_samples_per_class=config.sampler_repeat,
            )
            if config.sampler == "class_aware"
            else UniformSampler(train.num_images, seed=self.trial.seed)
        )
        if config.iterations_per_epoch is None and sampler.epoch_length < config.batch_size:
            raise InvalidData(
                [
                    f"{self.data.name}: an epoch draws {sampler.epoch_length} images, which is "
                    f"less than training.batch_size={config.batch_size}; use a smaller batch"
                ]
            )
        return sampler

    def _build_loss(self, *, epoch: int) -> nn.Module:
        """Return the loss of an epoch: some change with it, and none remembers anything."""
        return build_loss(
            self.trial.loss,
            self.data.class_counts_C,
            self.groups_C,
            num_images=self.data.train.num_images,
            class_names=self.data.class_names,
            epoch=epoch,
        ).to(self.device)

    # ------------------------------------------------------------ state

    def state(self, record: EpochRecord) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {
            "trial": self.trial.model_dump(mode="json"),
            "configuration_id": self.trial.configuration_id,
            "epoch": self.epoch,
            "iteration": self.iteration,
            "model": self._weights(),
            "optimiser": self.optimiser.state_dict(),
            "sampler": self.sampler.state_dict(),
            "drawn": torch.from_numpy(self.drawn),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
            "record": dataclasses.asdict(record),
        }

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights of what is trained; a finished trial's of the whole classifier."""
        finished = self.epoch == self.trial.training.epochs
        weights: dict[str, Tensor] = (self.classifier if finished else self.network).state_dict()
        return weights

    def restore(self, state: dict[str, Any]) -> dict[str, Any]:
        """Take up a state and return its record. The random streams come last: nothing that is
        done before may draw from them afterwards.
        """
        if state["configuration_id"] != self.trial.configuration_id:
            raise StorageError(
                f"the checkpoint of {self.trial.uid} is of another configuration; it belongs to "
                "other results: begin in another folder, or delete it"
            )
        self.epoch, self.iteration = state["epoch"], state["iteration"]
        own = self.network.state_dict().keys()
        self.network.load_state_dict({k: v for k, v in state["model"].items() if k in own})
        self.optimiser.load_state_dict(state["optimiser"])
        self.sampler.load_state_dict(state["sampler"])
        self.drawn = state["drawn"].numpy()
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        record: dict[str, Any] = state["record"]
        return record

    # ------------------------------------------------------------ one epoch

    def train_epoch(self) -> EpochRecord:
        config = self.trial.training
        start = time.perf_counter()
        self.epoch += 1
        self.loss = self._build_loss(epoch=self.epoch)
        indices = self._draw_epoch()
        num_steps = len(indices) // config.batch_size
        meter = ProbabilityMeter(self.groups_C)
        sums: dict[str, Tensor] = {}
        loss_sum = torch.zeros((), device=self.device)
        norm_sum = torch.zeros((), device=self.device)
        rate = 0.0
        self.network.train()
        with contextlib.closing(
            batches(self._prepare, indices, batch_size=config.batch_size, workers=config.workers)
        ) as prepared:
            for inputs_B, targets_BC in prepared:
                rate = learning_rate(config, epoch=self.epoch, iteration=self.iteration)
                loss, norm, logits_BC, factors = self._step(inputs_B, targets_BC, rate)
                self.iteration += 1
                loss_sum += loss
                norm_sum += norm
                meter.update(logits_BC, targets_BC)
                for name, factor_C in factors.items():
                    sums[name] = sums[name] + factor_C if name in sums else factor_C
        statistics = meter.result()
        train_seconds = time.perf_counter() - start
        evaluations = self._evaluate()
        return EpochRecord(
            epoch=self.epoch,
            iterations=self.iteration,
            train_loss=float(loss_sum) / num_steps,
            learning_rate=rate,
            gradient_norm=float(norm_sum) / num_steps,
            map={split: result.map for split, result in evaluations.items()},
            ap={split: result.ap_C.tolist() for split, result in evaluations.items()},
            f1={split: result.f1 for split, result in evaluations.items()},
            loss={split: result.loss for split, result in evaluations.items()},
            p_pos=statistics.p_pos_C.tolist(),
            p_neg=statistics.p_neg_C.tolist(),
            group_p_pos=statistics.p_pos,
            group_p_neg=statistics.p_neg,
            factors={name: (total_C / num_steps).tolist() for name, total_C in sums.items()},
            num_train_images=num_steps * config.batch_size,
            train_seconds=train_seconds,
            evaluation_seconds=time.perf_counter() - start - train_seconds,
            peak_memory_bytes=peak_memory_bytes(self.device),
            class_names=list(self.data.class_names),
            class_counts=self.data.class_counts_C.tolist(),
            class_groups=self.groups_C.tolist(),
            data_fingerprint=self.data.fingerprint,
            weights_fingerprint=self.weights_fingerprint,
        )

    def _draw_epoch(self) -> npt.NDArray[np.int64]:
        """Return the images of an epoch in order: the sampler's own epoch, or a fixed number.

        A fixed number takes the sampler's epochs as one stream, so that no draw is lost.
        """
        config = self.trial.training
        if config.iterations_per_epoch is None:
            return self.sampler.next_epoch()
        num_draws = config.iterations_per_epoch * config.batch_size
        while len(self.drawn) < num_draws:
            self.drawn = np.concatenate([self.drawn, self.sampler.next_epoch()])
        indices, self.drawn = self.drawn[:num_draws], self.drawn[num_draws:].copy()
        return indices

    def _prepare(
        self, indices_B: npt.NDArray[np.int64], positions_B: npt.NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a batch; called from the threads of the loader."""
        targets_BC = torch.from_numpy(self.data.train.targets_NC[indices_B])
        return (
            self.inputs.training_batch(indices_B, positions_B, epoch=self.epoch),
            targets_BC.to(self.device).float(),
        )

    def _step(
        self, inputs_B: Tensor, targets_BC: Tensor, rate: float
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        config = self.trial.training
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with self._autocast():
            logits_BC = self.network(inputs_B)
        loss, factors = self.loss(logits_BC, targets_BC)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self.network.parameters(), config.clip_norm or float("inf")
        )
        if not torch.isfinite(loss + norm):
            raise NonFiniteLoss(self._describe(loss.detach(), norm, factors))
        self.optimiser.step()
        return loss.detach(), norm, logits_BC.detach(), factors

    def _describe(self, loss: Tensor, norm: Tensor, factors: dict[str, Tensor]) -> str:
        what = "the loss" if not torch.isfinite(loss) else "the gradient"
        ranges = ", ".join(
            f"{name} {float(factor_C.min()):.3g}..{float(factor_C.max()):.3g}"
            for name, factor_C in factors.items()
        )
        over_classes = f"factors over the classes: {ranges}; " if ranges else ""
        return (
            f"{what} is not finite in epoch {self.epoch}, step {self.iteration} of the trial "
            f"(loss {float(loss):.4g}, gradient norm {float(norm):.4g}, seed {self.trial.seed}); "
            f"{over_classes}a lower training.learning_rate, a narrower range of the factors or "
            "loss.max_ratio helps"
        )

    def _evaluate(self) -> dict[str, Evaluation]:
        config = self.trial.training
        last = self.epoch == config.epochs
        due = {
            "validation": last or self.epoch % config.validate_every == 0,
            "test": last or (config.test_every is not None and self.epoch % config.test_every == 0),
        }
        evaluations = {}
        for name, is_due in due.items():
            split = self.data.split(name)
            if not is_due or not split.num_images:
                continue
            logits_NC = compute_logits(
                self.network,
                functools.partial(self.inputs.evaluation_batch, name),
                split.num_images,
                batch_size=config.eval_batch_size,
                autocast=self._autocast(),
            )
            self.scores[name] = ImageScores(split.ids, split.targets_NC, logits_NC)
            evaluations[name] = evaluate(logits_NC, split.targets_NC, self.groups_C)
        return evaluations

    def _autocast(self) -> torch.autocast:
        enabled = self.trial.training.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)
