"""Data sets of long-tailed multi-label images, and how training walks through them.

`pgsearch.data.augment` is not imported here: it needs torch, the rest does not.
"""

from pgsearch.data.dataset import MultiLabelDataset, Split
from pgsearch.data.digits import load_digits_scenes
from pgsearch.data.long_tail import pareto_profile
from pgsearch.data.manifest import load_manifest
from pgsearch.data.samplers import ClassAwareSampler, UniformSampler
from pgsearch.data.stratify import stratified_holdout

__all__ = [
    "ClassAwareSampler",
    "MultiLabelDataset",
    "Split",
    "UniformSampler",
    "load_digits_scenes",
    "load_manifest",
    "pareto_profile",
    "stratified_holdout",
]
