#!/usr/bin/env python3
"""Plain reachability with rustworkx on the graphs of lineage/examples/scale.rs, for comparison in the same run.

Usage: reachability.py EDGES: a file of pairs of little-endian u32, dependent and provider. Prints time to load, callers of
each of the 20 nodes with the most dependents (median and largest, ms), strongly connected components, dominators, memory.
"""

import array
import sys
import time

import rustworkx as rx


def main() -> None:
    started = time.perf_counter()
    pairs = array.array("I")
    with open(sys.argv[1], "rb") as file:
        pairs.frombytes(file.read())
    nodes = max(pairs) + 1
    graph = rx.PyDiGraph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from_no_data(list(zip(pairs[0::2], pairs[1::2])))
    load_ms = (time.perf_counter() - started) * 1000
    hubs = sorted(range(nodes), key=graph.in_degree, reverse=True)[:20]
    times, largest = [], 0
    for hub in hubs:
        started = time.perf_counter()
        callers = rx.ancestors(graph, hub)
        times.append((time.perf_counter() - started) * 1000)
        largest = max(largest, len(callers))
    times.sort()
    started = time.perf_counter()
    rx.strongly_connected_components(graph)
    components_ms = (time.perf_counter() - started) * 1000
    root = graph.add_node(None)
    entries = [n for n in range(nodes) if graph.in_degree(n) == 0]
    graph.add_edges_from_no_data([(root, n) for n in entries])
    started = time.perf_counter()
    rx.immediate_dominators(graph, root)
    dominators_ms = (time.perf_counter() - started) * 1000
    with open("/proc/self/status") as status:
        memory_mb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) // 1024
    print(
        f"rustworkx {rx.__version__}: load {load_ms:.0f} ms, {memory_mb} MB, callers of a hub {times[len(times) // 2]:.2f} / {times[-1]:.2f} ms "
        f"(largest {largest}), components {components_ms:.0f} ms, dominators {dominators_ms:.0f} ms"
    )


if __name__ == "__main__":
    main()
