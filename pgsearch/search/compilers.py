"""Whether `training.compile: true` will work wherever a search trains."""

from collections.abc import Sequence

from pgsearch.config import SearchSpec
from pgsearch.search.placement import Node
from pgsearch.training.compiler import require_compiler


def require_compilers(
    spec: SearchSpec, nodes: Sequence[Node] | None = None, *, has_gpu: bool
) -> None:
    """Prove that a search that compiles its networks can do so.

    Args:
        spec: the search.
        nodes: of a cluster, where trials may be placed; None is this machine.
        has_gpu: whether a trial gets one, or a part of one.

    Raises UsageError where one of them lacks what that needs.
    """
    trained = [spec.trial(0, {}, variant, stage=stage).training for variant, stage in spec.bases()]
    if not any(training.compile for training in trained) and "training.compile" not in spec.space:
        return
    gpu = has_gpu and any(training.device != "cpu" for training in trained)
    if nodes is None:
        require_compiler(gpu=gpu)
        return
    from pgsearch.search import nodes as cluster  # after Ray's settings

    cluster.require_compilers(nodes, gpu=gpu)
