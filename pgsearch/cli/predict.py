"""Commands that use a trained classifier: `evaluate` it on a data set, `predict` with it."""

import csv
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgsearch.cli.options import Json, Split

if TYPE_CHECKING:
    from pgsearch.data import dataset
    from pgsearch.training.trained import TrainedClassifier

IMAGES_AT_A_TIME = 64

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A file of RESULTS/NAME/checkpoints; pgsearch best NAME says which are kept.",
        show_default=False,
    ),
]


class PredictionFormat(StrEnum):
    """How predictions are printed."""

    json = "json"
    csv = "csv"


def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[
        Path | None,
        typer.Option(help="Manifest (CSV or Parquet); default is the data it was trained with."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of its images; default is the manifest's own.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Split to score.")] = Split.test,
    save_scores: Annotated[
        Path | None, typer.Option(help="Write the scores of every image to a Parquet file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a trained classifier on a data set: mAP, F1 and the AP of every class.

    The classes of a manifest are found by name and may come in any order. Head, medium and tail are
    those of the training data.
    """
    from pgsearch.cli import render
    from pgsearch.cli.progress import data_progress
    from pgsearch.errors import UsageError
    from pgsearch.training.trained import load_trained

    if root is not None and data is None:
        raise UsageError("--root is the folder of a manifest: name it with --data")
    if save_scores is not None and save_scores.suffix.lower() != ".parquet":
        raise UsageError(f"--save-scores {save_scores}: scores are written as .parquet; name it so")
    trained = load_trained(checkpoint)
    images = _split(trained, data, root, split.value)
    with data_progress(what="scoring images") as advance:
        logits_NC = trained.logits(images.images_NHWC, progress=advance)
    if save_scores is not None:
        from pgsearch.results.scores import ImageScores, write_scores
        from pgsearch.results.storage import stored_file

        scores = ImageScores(images.ids, images.targets_NC, logits_NC)
        write_scores(stored_file(save_scores), {split.value: scores}, trained.class_names)
    facts = {"checkpoint": str(checkpoint), "split": split.value}
    facts |= _worth(trained, images.targets_NC, logits_NC)
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        render.evaluation(facts)


def _worth(trained: "TrainedClassifier", targets_NC: Any, logits_NC: Any) -> dict[str, Any]:
    """Return what the scores of a split are worth, as JSON has it."""
    from pgsearch.class_groups import GROUPS
    from pgsearch.training.evaluate import evaluate as evaluate_scores

    result = evaluate_scores(logits_NC, targets_NC, trained.class_groups_C)
    classes = [
        {"class": name, "group": GROUPS[group], "positives": int(count), "ap": _number(ap)}
        for name, group, count, ap in zip(
            trained.class_names,
            trained.class_groups_C,
            targets_NC.sum(axis=0),
            result.ap_C,
            strict=True,
        )
    ]
    return {
        "images": len(targets_NC),
        "map": {part: _number(value) for part, value in result.map.items()},
        "f1": {mean: _number(value) for mean, value in result.f1.items()},
        "loss": result.loss,
        "classes": classes,
    }


def predict(
    checkpoint: Checkpoint,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES...", help="Image files.", show_default=False)
    ],
    style: Annotated[
        PredictionFormat, typer.Option("--format", help="How to print.")
    ] = PredictionFormat.json,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to a file instead.")
    ] = None,
) -> None:
    """Print the probability of every class for images, as JSON or CSV, in the order given."""
    import numpy as np
    from scipy.special import expit

    from pgsearch.cli.progress import data_progress
    from pgsearch.data.image_files import UnreadableImage, decode_image
    from pgsearch.errors import InvalidData
    from pgsearch.results.local_storage import replace_file
    from pgsearch.training.trained import load_trained

    trained = load_trained(checkpoint)
    logits: list[Any] = []
    problems: list[str] = []
    with data_progress(what="scoring images") as advance:
        for start in range(0, len(images), IMAGES_AT_A_TIME):
            pixels = []
            for path in images[start : start + IMAGES_AT_A_TIME]:
                try:
                    pixels.append(decode_image(path, image_size=trained.image_size).pixels_HWC)
                except UnreadableImage as error:
                    problems.append(f"{path}: {error}")
            if not problems:  # otherwise go on only to find the rest of them
                logits.append(trained.logits(np.stack(pixels)))
            advance(min(start + IMAGES_AT_A_TIME, len(images)), len(images))
    if problems:
        raise InvalidData(problems)
    probabilities_NC = np.round(expit(np.concatenate(logits).astype(np.float64)), 6)
    text = _printed(images, probabilities_NC, trained.class_names, style)
    if output is None:
        typer.echo(text.rstrip("\n"))
    else:
        replace_file(output, lambda file: file.write(text.encode()))


def _split(
    trained: "TrainedClassifier", manifest: Path | None, root: Path | None, name: str
) -> "dataset.Split":
    from pgsearch.cache_dir import default_cache_dir
    from pgsearch.cli.progress import data_progress
    from pgsearch.data.build import build_dataset
    from pgsearch.data.manifest import load_manifest_split
    from pgsearch.errors import InvalidData

    with data_progress() as advance:
        if manifest is not None:
            return load_manifest_split(
                manifest,
                root=root,
                split=name,
                image_size=trained.image_size,
                class_names=trained.class_names,
                cache_dir=default_cache_dir(),
                progress=advance,
            )
        dataset = build_dataset(trained.trial.data, progress=advance)
    problems = []
    if dataset.fingerprint != trained.data_fingerprint:
        problems.append(
            f"{dataset.name}: its images, labels or splits are not those that the checkpoint was "
            "trained with; restore them, or name what to score with --data"
        )
    if not dataset.split(name).num_images:
        problems.append(f"{dataset.name}: has no images of {name}; choose another --split")
    if problems:
        raise InvalidData(problems)
    return dataset.split(name)


def _printed(
    images: list[Path], probabilities_NC: Any, class_names: tuple[str, ...], style: PredictionFormat
) -> str:
    if style is PredictionFormat.json:
        rows = [
            {"image": str(path), "probabilities": dict(zip(class_names, row, strict=True))}
            for path, row in zip(images, probabilities_NC.tolist(), strict=True)
        ]
        return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *class_names])
    writer.writerows([path, *row] for path, row in zip(images, probabilities_NC, strict=True))
    return text.getvalue()


def _number(value: float) -> float | None:
    return None if value != value else float(value)  # NaN is not itself
