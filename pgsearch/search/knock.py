"""Who answers at the address of a Ray cluster: a program that asks, prints JSON, and ends.

Ray's own connecting (2.60) waits 20 s for a wrong token and two minutes for a silent port, writes
to the terminal from C++, and ends its process. So it is tried in a process that may be ended.
"""

import json
import sys
from typing import Any

SECONDS_FOR_AN_ANSWER = 5


def look(address: str) -> dict[str, Any]:
    """Return the versions of the cluster at `address`, and whether this machine is a node of it.

    Raises what Ray raises.
    """
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._private.authentication.authentication_token_setup import (
        maybe_enable_token_auth_if_token_available,
    )
    from ray._private.services import canonicalize_bootstrap_address, find_node_ids
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    found = canonicalize_bootstrap_address(address)
    if found is None:
        raise ConnectionError("no Ray runs on this machine")
    client = GcsClient(address=found)
    nodes = client.get_all_node_info(timeout=SECONDS_FOR_AN_ANSWER)
    alive = {node_id.hex() for node_id, node in nodes.items() if node.state == 0}
    versions = get_cluster_metadata(client) or {}
    return {
        "address": found,
        "ray": versions.get("ray_version"),
        "python": versions.get("python_version"),
        "num_nodes": len(alive),
        "is_here": bool(alive & find_node_ids()),
    }


if __name__ == "__main__":
    try:
        answer = look(sys.argv[1])
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)
