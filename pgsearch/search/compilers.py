"""Whether `training.compile: true` will work wherever a search trains."""

from collections.abc import Sequence

from pgsearch.config import SearchSpec
from pgsearch.search.placement import Node
from pgsearch.training.compiler import require_compiler


def require_compilers(spec: SearchSpec, nodes: Sequence[Node] | None = None) -> None:
    """Prove that a search that compiles its networks can do so.

    Args:
        spec: the search.
        nodes: of a cluster, where trials may be placed; None is this machine.

    Raises UsageError where one of them lacks what that needs.
    """
    trained = [spec.trial(0, {}, variant, stage=stage).training for variant, stage in spec.bases()]
    if not any(training.compile for training in trained) and "training.compile" not in spec.space:
        return
    # Without a GPU of its own a trial sees none.
    gpu = spec.resources.gpus != 0 and any(training.device != "cpu" for training in trained)
    if nodes is None:
        require_compiler(gpu=gpu)
        return
    from pgsearch.search import nodes as cluster  # after Ray's settings

    cluster.require_compilers(nodes, gpu=gpu)
