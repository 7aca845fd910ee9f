"""A training script as the field writes it: JPEGs decoded for every sample, fp32, NCHW.

python benchmarks/peers/plain.py MANIFEST ROOT STEPS

One epoch of so many steps of ResNet-50, and an evaluation of the test split in the same way. With
STEPS 0 it takes turns with another process: for each line of its input, `train N` or `evaluate`, it
answers how many seconds that took.
"""

import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

WORKERS = 2
NORMALISE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def augmentation(size: int) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05),
            transforms.RandomResizedCrop(size, scale=(0.64, 1)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            NORMALISE,
        ]
    )


def one_view(size: int) -> transforms.Compose:
    return transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), NORMALISE])


class Images(Protocol):
    """A manifest, and the folder that its paths are relative to."""

    @property
    def manifest(self) -> Path: ...

    @property
    def root(self) -> Path: ...


class Arguments(NamedTuple):
    """Those of the command line."""

    manifest: Path
    root: Path


class Jpegs(Dataset[tuple[Tensor, Tensor]]):
    """The images of one split of a manifest, with their labels."""

    def __init__(self, images: Images, split: str, transform: transforms.Compose) -> None:
        with images.manifest.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        self.paths = [images.root / row["image"] for row in rows]
        classes = [name for name in rows[0] if name not in ("image", "split")]
        self.labels = torch.tensor([[float(row[name]) for name in classes] for row in rows])
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(Image.open(self.paths[i]).convert("RGB")), self.labels[i]


class Trial:
    """Model, optimiser and data of one run."""

    def __init__(self, images: Images, *, batch: int, size: int, backbone: str) -> None:
        self.train_set = Jpegs(images, "train", augmentation(size))
        self.test_set = Jpegs(images, "test", one_view(size))
        self.batch = batch
        self.model: nn.Module = getattr(models, backbone)()
        self.model.fc = nn.Linear(self.model.fc.in_features, self.train_set.labels.shape[1])
        self.optimiser = torch.optim.SGD(self.model.parameters(), 0.02, 0.9, weight_decay=1e-4)
        self.criterion = nn.BCEWithLogitsLoss()

    def train(self, steps: int) -> None:
        self.model.train()
        for images, targets in self.batches(steps):
            self.step(images, targets)

    def batches(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        sampler = torch.utils.data.RandomSampler(self.train_set, num_samples=steps * self.batch)
        return iter(DataLoader(self.train_set, self.batch, sampler=sampler, num_workers=WORKERS))

    def step(self, images: Tensor, targets: Tensor) -> None:
        loss = self.criterion(self.model(images), targets)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        loss.item()  # as scripts print it

    def evaluate(self) -> float:
        self.model.eval()
        scores, labels = [], []
        with torch.no_grad():
            for images, targets in DataLoader(self.test_set, self.batch, num_workers=WORKERS):
                scores.append(torch.sigmoid(self.model(images)))
                labels.append(targets)
        present = np.flatnonzero((truth := torch.cat(labels).numpy()).any(axis=0))
        return float(
            average_precision_score(truth[:, present], torch.cat(scores).numpy()[:, present])
        )

    def take_turns(self) -> None:
        for line in sys.stdin:
            what, *steps = line.split()
            start = time.perf_counter()
            if what == "train":
                self.train(int(steps[0]))
            else:
                self.evaluate()
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    trial = Trial(Arguments(*map(Path, sys.argv[1:3])), batch=32, size=224, backbone="resnet50")
    if steps := int(sys.argv[3]):
        trial.train(steps)
        print(trial.evaluate())
    else:
        trial.take_turns()
