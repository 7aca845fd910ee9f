"""From the configuration of a data set to the data set."""

from collections.abc import Callable
from pathlib import Path

from pgsearch.cache_dir import default_cache_dir
from pgsearch.config.dataset import DataConfig, DigitsConfig, ManifestConfig
from pgsearch.data.dataset import MultiLabelDataset
from pgsearch.data.digits import load_digits_scenes
from pgsearch.data.manifest import load_manifest


def build_dataset(
    config: DataConfig, *, progress: Callable[[int, int], None] | None = None
) -> MultiLabelDataset:
    """Load a data set, decoding it into this machine's cache the first time.

    Args:
        config: which data set.
        progress: called with the number of images that are done and that there are.

    Raises:
        InvalidData: with every problem found.
        StorageError: the cache cannot be written.
    """
    match config:
        case DigitsConfig():
            return load_digits_scenes(
                seed=config.seed,
                image_size=config.image_size,
                max_count=config.max_count,
                min_count=config.min_count,
                cache_dir=default_cache_dir(),
            )
        case ManifestConfig():
            return load_manifest(
                Path(config.manifest),
                root=None if config.root is None else Path(config.root),
                image_size=config.image_size,
                validation_fraction=config.validation_fraction,
                split_seed=config.split_seed,
                cache_dir=default_cache_dir(),
                progress=progress,
            )
