"""Training one trial, epoch by epoch. It does not know who asks, nor where results go."""

import contextlib
import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from pgsearch import __version__
from pgsearch.class_groups import class_groups
from pgsearch.config import TrialSpec
from pgsearch.data.build import build_dataset
from pgsearch.data.loader import batches
from pgsearch.data.samplers import ClassAwareSampler, UniformSampler
from pgsearch.errors import (
    InvalidData,
    OutOfMemory,
    StorageError,
    TrialInterrupted,
    UsageError,
)
from pgsearch.losses.build import build_loss
from pgsearch.metrics import ProbabilityMeans
from pgsearch.models.build import (
    after_stages,
    build_model,
    model_statistics,
    weights_fingerprint,
)
from pgsearch.results.schema import EpochRecord
from pgsearch.results.scores import ImageScores
from pgsearch.training.compilation import (
    compiled,
    describe_not_compiled,
    is_from_compiler,
    prepare_compilation,
)
from pgsearch.training.device import (
    choose_device,
    describe_no_memory,
    is_out_of_memory,
    peak_memory_bytes,
    to_device,
)
from pgsearch.training.evaluate import Evaluation, compute_logits, evaluate
from pgsearch.training.features import cached_features, shared_trunk
from pgsearch.training.inputs import FeatureInputs, ImageInputs, Indices, Inputs, MapInputs
from pgsearch.training.memory import restart_peaks, return_freed_memory
from pgsearch.training.optim import build_optimiser, learning_rate
from pgsearch.training.precision import Precision, autocast, resolve_precision, with_precision
from pgsearch.training.state import (
    CHECKPOINT_VERSION,
    EpochProgress,
    newer_version,
    precision_of,
    records_of,
)
from pgsearch.training.step import FiniteWatch, Step, gradient_norm
from pgsearch.training.stores import BestEpochStore, CheckpointStore


def fit(
    trial: TrialSpec,
    *,
    report: Callable[[EpochRecord], None],
    checkpoints: CheckpointStore | None = None,
    best_epoch: BestEpochStore | None = None,
    save_scores: Callable[[Mapping[str, ImageScores], tuple[str, ...]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Train a trial to its last epoch, from its newest checkpoint if there is one.

    After each epoch the state is checkpointed, with the records of all epochs so far in it, and
    then the epoch's record is reported. A kill between the two loses nothing: a resumed trial
    reports the records of its checkpoint again, in order, before it goes on, and who records them
    keeps the first. A trial that is asked to stop is checkpointed where it stands. A resumed trial
    equals one that was never interrupted, bit for bit on a CPU, wherever that was and however
    often.

    Args:
        trial: what to train.
        report: called with each epoch's record; it may raise to end the trial.
        checkpoints: where to keep the state; None keeps none.
        best_epoch: where to keep the classifier of the best epoch; written before the checkpoint
            of that epoch, so that a kill between the two only repeats it.
        save_scores: is given the scores of the last epoch by split, and the class names.
        should_stop: asked before each epoch, each optimiser step and each evaluation, so it must
            be cheap; True ends the trial there. After the last epoch it is not asked: the trial is
            complete.

    Raises:
        TrialInterrupted: it was asked to stop; names epoch and step.
        OutOfMemory: device or process had not enough memory; names epoch, peak and what helps.
        NonFiniteLoss: a loss, gradient or score is not finite; names epoch, step and factors.
        InvalidData: the images, labels or weights break a rule.
        UsageError: `training.compile` is true, and this machine or network does not let it.
        StorageError: the checkpoint cannot be read or written, or is of a newer pgsearch.
    """
    run: _Run | None = None
    try:
        state = checkpoints.load() if checkpoints else None
        run = _Run(trial, precision_of(state) if state else None)
        if state is not None:
            run.restore(state)
        for record in run.records:
            report(record)
        for record in run.epochs(should_stop or _never):
            last = run.epoch == trial.training.epochs
            if save_scores and last:  # before the state that a resume would end with
                save_scores(run.scores, run.data.class_names)
            if best_epoch and best_epoch.is_best(run.records):
                best_epoch.save(run.classifier_state())
            if checkpoints and (last or run.epoch % trial.training.checkpoint_every == 0):
                checkpoints.save(run.state())
            report(record)
        if run.epoch < trial.training.epochs:
            _interrupt(run, checkpoints)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            if is_from_compiler(error):
                raise UsageError(describe_not_compiled(trial, error)) from error
            raise
        where = run.position() if run else "before its first step"
        raise OutOfMemory(describe_no_memory(trial, where, error)) from error


def _never() -> bool:
    return False


def _interrupt(run: "_Run", checkpoints: CheckpointStore | None) -> NoReturn:
    """Keep the state where the trial stands, and end it."""
    what = f"{run.trial.uid}: interrupted {run.position()}"
    if checkpoints is None:
        raise TrialInterrupted(f"{what}; it keeps no checkpoint: the same command begins it again")
    checkpoints.save(run.state())
    raise TrialInterrupted(f"{what}; its checkpoint is saved: the same command goes on from there")


class _Run:
    """All that changes while a trial trains, and the data it trains on.

    Args:
        trial: what to train.
        precision: that of its checkpoint, which it keeps; None where it begins.
    """

    def __init__(self, trial: TrialSpec, precision: Precision | None) -> None:
        self.trial = trial
        config = trial.training
        self.device = choose_device(config.device)
        if self.device.type == "cpu":
            torch.set_num_threads(trial.threads)
        if config.compile:
            prepare_compilation(self.device)
        self.precision = precision or resolve_precision(trial, self.device)
        self.data = build_dataset(trial.data)
        self.data.check()
        counts_C = self.data.class_counts_C
        self.groups_C = class_groups(
            counts_C, head_min=trial.data.head_min, tail_below=trial.data.tail_below
        )
        self.weights_fingerprint = weights_fingerprint(trial.model)
        self.classifier, self.network, self.inputs = self._build_network()
        self.forward = compiled(self.network) if config.compile else self.network
        self.loss = self._build_loss(epoch=1)  # a count that it cannot use is an error now
        self.optimiser = build_optimiser(self.network.parameters(), config)
        restart_peaks(self.device)  # what one trial does for its node, all others do not need
        self.watch = FiniteWatch(self.device, trial.seed)
        self.sampler = self._build_sampler()
        self.drawn = np.empty(0, dtype=np.int64)  # by the sampler, for epochs to come
        self.epoch = 0  # finished
        self.iteration = 0
        self.progress: EpochProgress | None = None  # None between epochs
        self.records: list[EpochRecord] = []  # of the finished epochs, as far as they are known
        self.scores: dict[str, ImageScores] = {}  # of the newest evaluation, by split

    def _build_network(self) -> tuple[nn.Module, nn.Module, Inputs]:
        """Return the classifier, what of it is trained, and what that is shown."""
        trial, config, data = self.trial, self.trial.training, self.data
        trunk = shared_trunk(trial.model, self.device) if config.trunk == "frozen" else None
        torch.manual_seed(trial.seed)  # initial weights and dropout
        classifier = build_model(
            trial.model,
            class_names=data.class_names,
            train_targets_NC=data.train.targets_NC,
            trunk=trunk,
        ).to(self.device)
        if config.channels_last:
            classifier.to(memory_format=torch.channels_last)
        if config.trunk == "trained":
            statistics = model_statistics(trial.model)
            images = ImageInputs(data, statistics, config, seed=trial.seed, device=self.device)
            return classifier, classifier, images
        features = cached_features(with_precision(trial, self.precision), data, self.device)
        if config.cached_stages is not None:
            maps = MapInputs(features, seed=trial.seed, device=self.device)
            return classifier, after_stages(classifier, trial.model, config.cached_stages), maps
        head = nn.Sequential(OrderedDict(neck=classifier.neck, head=classifier.head))
        return classifier, head, FeatureInputs(features, seed=trial.seed, device=self.device)

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

    def state(self) -> dict[str, Any]:
        """Return what the trial goes on from; after its last epoch, the classifier."""
        if self.epoch == self.trial.training.epochs:
            return self.classifier_state()
        cuda = self.device.type == "cuda"
        return {
            **self._facts(),
            "model": self.network.state_dict(),
            "progress": self.progress.state_dict() if self.progress else None,
            "optimiser": self.optimiser.state_dict(),
            "sampler": self.sampler.state_dict(),
            "drawn": torch.from_numpy(self.drawn),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
        }

    def classifier_state(self) -> dict[str, Any]:
        """Return the whole classifier, with what is frozen too, as it is now: to be used, and not
        to be trained further.
        """
        return {**self._facts(), "model": self.classifier.state_dict()}

    def _facts(self) -> dict[str, Any]:
        records = [dict(vars(record)) for record in self.records]  # asdict copies every number
        return {
            "schema_version": CHECKPOINT_VERSION,
            "pgsearch": __version__,
            "trial": self.trial.model_dump(mode="json"),
            "configuration_id": self.trial.configuration_id,
            "precision": self.precision,
            "epoch": self.epoch,
            "iteration": self.iteration,
            "records": records,
            "record": records[-1] if records else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state. The random streams come last: what is done before may draw from them,
        and nothing may between here and the next step.
        """
        if problem := newer_version(state):
            raise StorageError(f"the checkpoint of {self.trial.uid} was {problem}")
        if state["configuration_id"] != self.trial.configuration_id:
            raise StorageError(
                f"the checkpoint of {self.trial.uid} is of another configuration; it belongs to "
                "other results: begin in another folder, or delete it"
            )
        finished = state["epoch"] == self.trial.training.epochs
        if not finished and "optimiser" not in state:
            raise StorageError(
                f"the checkpoint of {self.trial.uid} holds its classifier after epoch "
                f"{state['epoch']} of {self.trial.training.epochs} and nothing to go on from, as "
                "that of a best epoch does: put the trial's own checkpoint back, or delete it and "
                "the trial begins again"
            )
        self.epoch, self.iteration = state["epoch"], state["iteration"]
        self.records = records_of(state)
        if (progress := state.get("progress")) is not None:
            self.progress = EpochProgress.from_state(progress, self.groups_C, self.device)
        own = self.network.state_dict().keys()
        self.network.load_state_dict({k: v for k, v in state["model"].items() if k in own})
        if finished:
            return  # nothing will be trained
        self.optimiser.load_state_dict(state["optimiser"])
        self.sampler.load_state_dict(state["sampler"])
        self.drawn = state["drawn"].numpy()
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)

    def position(self) -> str:
        """Return where the trial stands, in words."""
        if self.progress is None:
            return f"after epoch {self.epoch}" if self.epoch else "before epoch 1"
        done, num_steps = self.progress.steps_done, self.progress.num_steps
        return f"in epoch {self.progress.epoch}, after step {done} of {num_steps}"

    # ------------------------------------------------------------ epochs

    def epochs(self, should_stop: Callable[[], bool]) -> Iterator[EpochRecord]:
        """Train the epochs that are left and yield the record of each.

        Ends early where it is asked to stop; then `progress` is how far the epoch has come.
        """
        while self.epoch < self.trial.training.epochs:
            if self.progress is None:
                if should_stop():
                    return
                self.progress = EpochProgress.begin(
                    self.epoch + 1, self._draw_epoch(), self.groups_C, self.device
                )
            with self.progress.timed():
                is_done = self._train(self.progress, should_stop)
                self.watch.require_finite(self.progress.epoch)
                if not is_done:
                    return
                statistics = self.progress.meter.result()  # waits for the device
            self.records.append(self._evaluated(self.progress, statistics))
            self.epoch, self.progress = self.progress.epoch, None
            yield self.records[-1]

    def _draw_epoch(self) -> Indices:
        """Return the images of each step of an epoch `[S, B]`: the sampler's epoch, or so many.

        A fixed number of steps takes the sampler's epochs as one stream, so that no draw is lost;
        otherwise the rest that fills no step is dropped.
        """
        config = self.trial.training
        if config.iterations_per_epoch is None:
            indices = self.sampler.next_epoch()
            num_draws = len(indices) // config.batch_size * config.batch_size
            return indices[:num_draws].reshape(-1, config.batch_size)
        num_draws = config.iterations_per_epoch * config.batch_size
        while len(self.drawn) < num_draws:
            self.drawn = np.concatenate([self.drawn, self.sampler.next_epoch()])
        indices, self.drawn = self.drawn[:num_draws], self.drawn[num_draws:].copy()
        return indices.reshape(-1, config.batch_size)

    def _train(self, progress: EpochProgress, should_stop: Callable[[], bool]) -> bool:
        """Take the steps of an epoch that are left; False where it is asked to stop before its end.

        Images are augmented by their position in the epoch, wherever it is taken up again.
        """
        config = self.trial.training
        done = progress.steps_done * config.batch_size
        self.loss = self._build_loss(epoch=progress.epoch)
        self.network.train()

        def prepare(indices_B: Indices, positions_B: Indices) -> tuple[Tensor, Tensor]:
            return self._prepare(indices_B, done + positions_B, epoch=progress.epoch)

        left = progress.indices_SB[progress.steps_done :].reshape(-1)
        with contextlib.closing(
            batches(prepare, left, batch_size=config.batch_size, workers=config.workers)
        ) as prepared:
            for inputs_B, targets_BC in prepared:
                if should_stop():
                    return False
                self._step(progress, inputs_B, targets_BC)
        return not should_stop()  # an evaluation may be long

    def _prepare(
        self, indices_B: Indices, positions_B: Indices, *, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a batch; called from the threads of the loader."""
        targets_BC = torch.from_numpy(self.data.train.targets_NC[indices_B])
        return (
            self.inputs.training_batch(indices_B, positions_B, epoch=epoch),
            to_device(targets_BC, self.device).float(),
        )

    def _step(self, progress: EpochProgress, inputs_B: Tensor, targets_BC: Tensor) -> None:
        config = self.trial.training
        rate = learning_rate(config, epoch=progress.epoch, iteration=self.iteration)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with autocast(self.device, self.precision):
            logits_BC = self.forward(inputs_B)
        loss, factors = self.loss(logits_BC, targets_BC)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = gradient_norm(self.network, config.clip_norm)
        self.watch.see(Step(self.iteration, loss.detach(), norm, factors), progress.epoch)
        self.optimiser.step()
        self.iteration += 1
        progress.add(loss.detach(), norm, factors)
        progress.meter.update(logits_BC.detach(), targets_BC)

    def _evaluated(self, progress: EpochProgress, statistics: ProbabilityMeans) -> EpochRecord:
        """Evaluate after the last step of an epoch and return its record."""
        config, num_steps = self.trial.training, progress.num_steps
        start = time.perf_counter()
        self.optimiser.zero_grad(set_to_none=True)  # gradients of the last step
        return_freed_memory(self.device, epoch_seconds=progress.seconds)
        evaluations = self._evaluate(progress.epoch)
        return_freed_memory(self.device, epoch_seconds=progress.seconds)
        return EpochRecord(
            epoch=progress.epoch,
            iterations=self.iteration,
            train_loss=float(progress.loss_sum) / num_steps,
            learning_rate=learning_rate(config, epoch=progress.epoch, iteration=self.iteration - 1),
            gradient_norm=float(progress.norm_sum) / num_steps,
            map={split: result.map for split, result in evaluations.items()},
            ap={split: result.ap_C.tolist() for split, result in evaluations.items()},
            f1={split: result.f1 for split, result in evaluations.items()},
            loss={split: result.loss for split, result in evaluations.items()},
            p_pos=statistics.p_pos_C.tolist(),
            p_neg=statistics.p_neg_C.tolist(),
            group_p_pos=statistics.p_pos,
            group_p_neg=statistics.p_neg,
            factors={
                name: (sum_C / num_steps).tolist() for name, sum_C in progress.factor_sums.items()
            },
            num_train_images=progress.indices_SB.size,
            train_seconds=progress.seconds,
            evaluation_seconds=time.perf_counter() - start,
            peak_memory_bytes=peak_memory_bytes(self.device),
            class_names=list(self.data.class_names),
            class_counts=self.data.class_counts_C.tolist(),
            class_groups=self.groups_C.tolist(),
            data_fingerprint=self.data.fingerprint,
            weights_fingerprint=self.weights_fingerprint,
            precision=self.precision,
        )

    def _evaluate(self, epoch: int) -> dict[str, Evaluation]:
        config = self.trial.training
        last = epoch == config.epochs
        due = {
            "validation": last or epoch % config.validate_every == 0,
            "test": last or (config.test_every is not None and epoch % config.test_every == 0),
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
                autocast=autocast(self.device, self.precision),
            )
            self.scores[name] = ImageScores(split.ids, split.targets_NC, logits_NC)
            evaluations[name] = evaluate(logits_NC, split.targets_NC, self.groups_C)
        return evaluations
