"""A search as a log folder of TensorBoard: a run per trial, and the HParams table over them.

The event files are written record by record with tensorboardX's parts. Its SummaryWriter would put
the name of this machine into each file's name and begin a thread per trial.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pgsearch.config.trial import Stage
from pgsearch.export.trials import Trial, metric_columns, metrics, read
from pgsearch.results import Ledger, TrialState


@contextlib.contextmanager
def _torch_hidden() -> Iterator[None]:
    """Let tensorboardX not find torch, which it would load to know tensors; here are none."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


with _torch_hidden():
    from tensorboardX import RecordWriter
    from tensorboardX.proto import api_pb2 as api
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.plugin_hparams_pb2 import (
        HParamsPluginData,
        SessionEndInfo,
        SessionStartInfo,
    )
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

FILES: Final = ("events.out.tfevents.pgsearch",)
STATUS: Final = {
    TrialState.COMPLETE: api.STATUS_SUCCESS,
    TrialState.FAIL: api.STATUS_FAILURE,
    TrialState.PRUNED: api.STATUS_UNKNOWN,  # neither: the column `state` says what
}


def write(
    ledger: Ledger, folder: Path, progress: Callable[[int, int], None], stage: Stage = "full"
) -> int:
    """Write one run per trial, named by its number, and return how many there are."""
    trials = read(ledger, metric_columns(), stage)
    _write_events(folder, [_experiment(trials)])
    for done, trial in enumerate(trials, start=1):
        _write_events(folder / f"{trial.record.number:05d}", _events(trial))
        progress(done, len(trials))
    return len(trials)


def _write_events(folder: Path, events: Sequence[Event]) -> None:
    folder.mkdir()
    writer = RecordWriter(str(folder / FILES[0]))
    first = min((event.wall_time for event in events), default=0.0)
    for event in [Event(wall_time=first, file_version="brain.Event:2"), *events]:
        writer.write(event.SerializeToString(deterministic=True))
    writer.close()


def _experiment(trials: Sequence[Trial]) -> Event:
    """Return what the HParams table has for columns: each parameter and the final mAPs."""
    kinds: dict[str, str] = {}
    for trial in trials:
        for name, value in _hparams(trial).items():
            kinds.setdefault(name, _kind(value))
    types = {
        "bool": api.DATA_TYPE_BOOL,
        "string": api.DATA_TYPE_STRING,
        "number": api.DATA_TYPE_FLOAT64,
    }
    infos = [api.HParamInfo(name=name, type=types[kind]) for name, kind in kinds.items()]
    tags = dict.fromkeys(tag for trial in trials for row in trial.epochs for tag in metrics(row))
    maps = [api.MetricInfo(name=api.MetricName(tag=tag)) for tag in tags if tag.startswith("map.")]
    began = [t for trial in trials if (t := trial.record.started_utc) is not None]
    experiment = api.Experiment(hparam_infos=infos, metric_infos=maps)
    return _hparams_event("experiment", experiment, _seconds(min(began, default=None)))


def _events(trial: Trial) -> list[Event]:
    """Return a trial's events: its parameters, the scalars of each epoch, how it ended."""
    record = trial.record
    began, ended = _seconds(record.started_utc), _seconds(record.ended_utc)
    start = SessionStartInfo(start_time_secs=began)
    for name, value in _hparams(trial).items():
        setattr(start.hparams[name], f"{_kind(value)}_value", value)
    events = [_hparams_event("session_start_info", start, began)]
    for row in trial.epochs:
        scalars = [Summary.Value(tag=tag, simple_value=v) for tag, v in metrics(row).items()]
        time = _seconds(row["recorded_utc"])
        events.append(Event(wall_time=time, step=row["epoch"], summary=Summary(value=scalars)))
    if record.state in STATUS:
        end = SessionEndInfo(status=STATUS[record.state], end_time_secs=ended)
        events.append(_hparams_event("session_end_info", end, ended))
    return events


def _hparams(trial: Trial) -> dict[str, Any]:
    record = trial.record
    values = {"variant": record.variant, **record.params}
    values |= {"seed": record.seed, "state": record.state.value}
    return {name: value for name, value in values.items() if value is not None}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "string" if isinstance(value, str) else "number"


def _hparams_event(part: str, content: Any, wall_time: float) -> Event:
    """Return one of the three records that the HParams plugin looks for."""
    data = HParamsPluginData(**{part: content}, version=0).SerializeToString(deterministic=True)
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=data)
    value = Summary.Value(tag=f"_hparams_/{part}", metadata=SummaryMetadata(plugin_data=plugin))
    return Event(wall_time=wall_time, summary=Summary(value=[value]))


def _seconds(utc: datetime | None) -> float:
    return 0.0 if utc is None else utc.timestamp()
