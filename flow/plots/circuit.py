"""A circuit drawn as a graph, with values and derivatives on the nodes."""

from typing import Any

import numpy as np

from flow._core.checks import instance
from flow._core.keywords import own_keywords
from flow.circuits.evaluation import Evaluation

# Letters that are smaller, in points, are not read.
LEAST = 5.0


@own_keywords
def draw(evaluation: Evaluation, ax: Any = None) -> Any:
    """Draw each node with its value and ∂L/∂node, and each branch with its local derivative.

    Inputs are on the left, the output on the right; a node stands one column right of its
    latest operand (topological generations). Letters are as small as the axes ask for; a figure of
    its own grows where they could not be read. Returns the axes.
    """
    import networkx as nx
    from matplotlib import rcParams

    # Figures stand above circuits.
    from flow.plots.style import axes, backdrop, colour, ink, readable

    instance("evaluation", evaluation, Evaluation, "what Circuit.evaluate returns")
    given, ax = ax, axes(ax, grid=False)
    circuit = evaluation.circuit
    labels = circuit.labels
    graph = nx.DiGraph()
    active = [node for node in circuit.nodes if node in circuit.active]
    # In topological order, which keeps a subexpression together in its columns.
    graph.add_nodes_from((labels[node], {"node": node}) for node in active)
    for node in active:
        for branch in evaluation.branches(labels[node]):
            edge = labels[node], labels[branch.child]
            before = graph.edges[edge]["local"] + ", " if graph.has_edge(*edge) else ""
            graph.add_edge(*edge, local=f"{before}{branch.local_derivative:.3g}")
    for column, generation in enumerate(nx.topological_generations(graph)):
        for label in generation:
            graph.nodes[label]["column"] = column
    # An input stands just left of the first node it feeds, so that edges cross nothing.
    for label in graph:
        if graph.in_degree(label) == 0 and graph.out_degree(label) > 0:
            nearest = min(graph.nodes[child]["column"] for child in graph.successors(label))
            graph.nodes[label]["column"] = nearest - 1
    numbers = {x: f"{evaluation[x]:.4g}\n∂ {evaluation.derivative(x):.3g}" for x in graph}
    text = {
        label: f"{readable(_title(node))}\n{numbers[label]}"
        for label, node in graph.nodes(data="node")
    }
    ax.set_axis_off()
    ax.set_title("each node: its value and ∂ = ∂L/∂node\neach edge: ∂child/∂node", fontsize="small")
    place, size = _placed(graph, text, ax, 0.7 * rcParams["font.size"], grow=given is None)
    shade, behind = ink(ax), tuple(backdrop(ax))
    nx.draw_networkx_edges(
        graph, place, ax=ax, node_size=25 * size**2, edge_color="0.5", arrowsize=1.7 * size,
        width=0.15 * size,
    )  # fmt: skip
    nx.draw_networkx_edge_labels(
        graph,
        place,
        edge_labels=nx.get_edge_attributes(graph, "local"),
        ax=ax,
        font_size=size,
        font_color=shade,
        label_pos=0.4,  # nearer the head, where edges that cross have parted
        rotate=False,
        bbox={"boxstyle": "round,pad=0.1", "facecolor": behind, "edgecolor": "none"},
    )
    inputs = {x.name for x in circuit.inputs}
    for label, (x, y) in place.items():
        ax.annotate(
            text[label],
            (x, y),
            ha="center",
            va="center",
            fontsize=size,
            color=shade,
            zorder=5,
            bbox={
                "boxstyle": "round,pad=0.3",
                "facecolor": behind,
                "edgecolor": colour(1 if label in inputs else 0),
                "linewidth": 0.2 * size,
            },
        )
    return ax


def _placed(
    graph: Any, text: dict[str, str], ax: Any, size: float, *, grow: bool
) -> tuple[dict[str, tuple[float, float]], float]:
    """Place each node's box, and size its letters, so that no two boxes meet.

    In points, on axes that are wide and high enough: letters are smaller, down to 5 points, where
    there is too little room, and then the figure is larger if it may grow, or they are smaller yet.
    """
    columns = _layers(graph)

    def extent(x: str) -> tuple[float, float]:
        drawn = ax.text(0, 0, x, fontsize=size)
        box = drawn.get_window_extent()
        drawn.remove()
        return 72 * box.width / ax.figure.dpi, 72 * box.height / ax.figure.dpi

    # Between two columns there is room for what is written on their edges.
    local = max((extent(x)[0] for *_, x in graph.edges(data="local")), default=0.0)
    wide = {c: max(extent(text[x])[0] for x in columns[c]) + size for c in sorted(columns)}
    high = extent("x\nx\nx")[1] + 3.0 * size
    gap = local + 2.4 * size
    needed = np.array([
        sum(wide.values()) + gap * (len(wide) - 1), high * max(map(len, columns.values()))
    ])  # fmt: skip
    room = 72 * np.array([ax.bbox.width, ax.bbox.height]) / ax.figure.dpi
    scale = min(1.0, *(room / needed))
    if grow and scale * size < LEAST:
        scale = min(1.0, LEAST / size)
        ax.figure.set_size_inches(
            ax.figure.get_size_inches() * np.maximum(1.0, scale * needed / room)
        )
    place, left = {}, 0.0
    for c, width in wide.items():
        for i, x in enumerate(columns[c]):
            place[x] = left + width / 2, high * (i - (len(columns[c]) - 1) / 2)
        left += width + gap
    ax.set(xlim=(0, needed[0]), ylim=needed[1] * np.array([-0.5, 0.5]))
    return place, scale * size


def _layers(graph: Any) -> dict[int, list[str]]:
    """Return columns, last first, each ordered by what its nodes feed, so that few edges cross."""
    columns: dict[int, list[str]] = {}
    for label, column in graph.nodes(data="column"):
        columns.setdefault(column, []).append(label)
    height: dict[str, float] = {}
    for column in sorted(columns, reverse=True):
        fed = {x: [height[child] for child in graph.successors(x)] for x in columns[column]}
        columns[column].sort(key=lambda x: sum(fed[x]) / max(len(fed[x]), 1))
        for i, label in enumerate(columns[column]):
            height[label] = i - (len(columns[column]) - 1) / 2
    return columns


def _title(node: Any) -> str:
    """Return the name, with the expression where it is short; else the bare operation."""
    if node.operation is None:
        return node.name
    if node.name and all(x.name or x.constant is not None for x in node.operands):
        return f"{node.name} = {node.expression(repr)}"
    bare = node.expression(lambda x: "" if x.constant is None else x.short())
    return node.name or bare.replace("()", "").strip()
