"""Training one trial, epoch by epoch. It does not know who asks, nor where results go."""

import dataclasses
import resource
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgsearch.class_groups import class_groups
from pgsearch.config import TrialSpec
from pgsearch.data.augment import augment_batch
from pgsearch.data.build import build_dataset
from pgsearch.data.samplers import ClassAwareSampler, UniformSampler
from pgsearch.errors import InvalidData, NonFiniteLoss, StorageError
from pgsearch.losses.build import build_loss
from pgsearch.metrics import ProbabilityMeter
from pgsearch.models.build import build_model, model_statistics, weights_fingerprint
from pgsearch.results.schema import FACTORS, EpochRecord
from pgsearch.training.evaluate import Evaluation, evaluate
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
        if checkpoints and (last or run.epoch % trial.training.checkpoint_every == 0):
            checkpoints.save(run.state(record))
        report(record)


class _Run:
    """All that changes while a trial trains, and the data it trains on."""

    def __init__(self, trial: TrialSpec) -> None:
        self.trial = trial
        config = trial.training
        self.device = _device(config.device)
        if self.device.type == "cpu":
            torch.set_num_threads(trial.threads)
        self.data = build_dataset(trial.data)
        self.data.check()
        counts_C = self.data.class_counts_C
        self.groups_C = class_groups(
            counts_C, head_min=trial.data.head_min, tail_below=trial.data.tail_below
        )
        torch.manual_seed(trial.seed)  # initial weights and dropout
        self.statistics = model_statistics(trial.model)
        self.model = build_model(trial.model, self.data.num_classes).to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.weights_fingerprint = weights_fingerprint(trial.model)
        self.loss = build_loss(
            trial.loss,
            counts_C,
            self.groups_C,
            num_images=self.data.train.num_images,
            class_names=self.data.class_names,
        ).to(self.device)
        self.optimiser = build_optimiser(self.model.parameters(), config)
        self.sampler: ClassAwareSampler | UniformSampler = (
            ClassAwareSampler(
                self.data.train.targets_NC, seed=trial.seed, reduce=config.sampler_reduce
            )
            if config.sampler == "class_aware"
            else UniformSampler(self.data.train.num_images, seed=trial.seed)
        )
        if config.iterations_per_epoch is None and self.sampler.epoch_length < config.batch_size:
            raise InvalidData(
                [
                    f"{self.data.name}: an epoch draws {self.sampler.epoch_length} images, which "
                    f"is less than training.batch_size={config.batch_size}; use a smaller batch"
                ]
            )
        self.drawn = np.empty(0, dtype=np.int64)  # by the sampler, for epochs to come
        self.epoch = 0
        self.iteration = 0

    # ------------------------------------------------------------ state

    def state(self, record: EpochRecord) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {
            "configuration_id": self.trial.configuration_id,
            "epoch": self.epoch,
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "sampler": self.sampler.state_dict(),
            "drawn": torch.from_numpy(self.drawn),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
            "record": dataclasses.asdict(record),
        }

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
        self.model.load_state_dict(state["model"])
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
        indices = self._draw_epoch()
        num_steps = len(indices) // config.batch_size
        meter = ProbabilityMeter(self.groups_C)
        sums = {name: torch.zeros(self.data.num_classes, device=self.device) for name in FACTORS}
        loss_sum = torch.zeros((), device=self.device)
        norm_sum = torch.zeros((), device=self.device)
        rate = 0.0
        self.model.train()
        for step in range(num_steps):
            positions = np.arange(step * config.batch_size, (step + 1) * config.batch_size)
            rate = learning_rate(config, epoch=self.epoch, iteration=self.iteration)
            loss, norm, logits_BC, targets_BC, factors = self._step(
                indices[positions], positions, rate
            )
            self.iteration += 1
            loss_sum += loss
            norm_sum += norm
            meter.update(logits_BC, targets_BC)
            for name, factor_C in factors.items():
                sums[name] += factor_C
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
            loss={split: result.loss for split, result in evaluations.items()},
            p_pos=statistics.p_pos_C.tolist(),
            p_neg=statistics.p_neg_C.tolist(),
            group_p_pos=statistics.p_pos,
            group_p_neg=statistics.p_neg,
            factors={name: (total_C / num_steps).tolist() for name, total_C in sums.items()},
            num_train_images=num_steps * config.batch_size,
            train_seconds=train_seconds,
            evaluation_seconds=time.perf_counter() - start - train_seconds,
            peak_memory_bytes=_peak_memory_bytes(self.device),
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

    def _step(
        self, indices_B: npt.NDArray[np.int64], positions_B: npt.NDArray[np.int64], rate: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        config = self.trial.training
        train = self.data.train
        images_BCHW = augment_batch(
            torch.from_numpy(train.images_NHWC[indices_B]).to(self.device),
            seed=self.trial.seed,
            epoch=self.epoch,
            positions_B=positions_B,
            crop_min=config.crop_min,
            flip=config.flip,
            mean=self.statistics[0],
            std=self.statistics[1],
        )
        targets_BC = torch.from_numpy(train.targets_NC[indices_B]).to(self.device).float()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with self._autocast():
            logits_BC = self.model(images_BCHW)
        loss, factors = self.loss(logits_BC, targets_BC)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), config.clip_norm or float("inf")
        )
        if not torch.isfinite(loss + norm):
            raise NonFiniteLoss(self._describe(loss.detach(), norm, factors))
        self.optimiser.step()
        return loss.detach(), norm, logits_BC.detach(), targets_BC, factors

    def _describe(self, loss: Tensor, norm: Tensor, factors: dict[str, Tensor]) -> str:
        what = "the loss" if not torch.isfinite(loss) else "the gradient"
        ranges = ", ".join(
            f"{name} {float(factor_C.min()):.3g}..{float(factor_C.max()):.3g}"
            for name, factor_C in factors.items()
        )
        return (
            f"{what} is not finite in epoch {self.epoch}, step {self.iteration} of the trial "
            f"(loss {float(loss):.4g}, gradient norm {float(norm):.4g}, seed {self.trial.seed}); "
            f"factors over the classes: {ranges}; a lower training.learning_rate, a narrower range "
            "of the factors or loss.max_ratio helps"
        )

    def _evaluate(self) -> dict[str, Evaluation]:
        config = self.trial.training
        last = self.epoch == config.epochs
        due = {
            "validation": last or self.epoch % config.validate_every == 0,
            "test": last or (config.test_every is not None and self.epoch % config.test_every == 0),
        }
        return {
            name: evaluate(
                self.model,
                getattr(self.data, name),
                self.groups_C,
                batch_size=config.eval_batch_size,
                statistics=self.statistics,
                device=self.device,
                autocast=self._autocast(),
            )
            for name in ("validation", "test")
            if due[name]
        }

    def _autocast(self) -> torch.autocast:
        enabled = self.trial.training.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidData(
            [
                "training.device=cuda, but no GPU is visible here; use device=cpu, or ask for one "
                "with resources.gpus=1"
            ]
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
