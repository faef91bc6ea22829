"""A Ray cluster of two nodes on one machine, for tests: `python raylets.py`.

Prints its address and the process of each node, then takes commands on stdin: `remove` takes the
second node away, without a word to it. Ends with its input. It is a process of its own so that
Ray's threads are not in that of the tests, which forks.
"""

import os
import sys
from typing import Any

_SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}


def main() -> None:
    """Run it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112  # others may fill the memory
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**_SMALL, "include_dashboard": False})
    first, second = cluster.head_node, cluster.add_node(**_SMALL)
    assert first is not None
    try:
        raylets = [node.all_processes["raylet"][0].process.pid for node in (first, second)]
        print(cluster.address, *raylets, flush=True)
        for line in sys.stdin:
            if line.strip() == "remove":
                cluster.remove_node(second, allow_graceful=False)
                print("removed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
