"""A circuit drawn as a graph, with values and derivatives on the nodes."""

from typing import Any

from flow.checks import instance
from flow.circuits.evaluation import Evaluation


def draw(evaluation: Evaluation, ax: Any = None) -> Any:
    """Draw each node with its value and ∂L/∂node, and each branch with its local derivative.

    Inputs are on the left, the output on the right; a node stands one column right of its
    latest operand (topological generations). Returns the axes.
    """
    import networkx as nx

    from flow.plots.style import COLOURS, axes  # figures stand above circuits, and draw them

    instance("evaluation", evaluation, Evaluation, "what Circuit.evaluate returns")
    ax = axes(ax, grid=False)
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
    place = nx.multipartite_layout(graph, subset_key=_layers(graph))
    text = {
        label: f"{_title(node)}\n{evaluation[label]:.4g}\n∂ {evaluation.derivative(label):.3g}"
        for label, node in graph.nodes(data="node")
    }
    inputs = {x.name for x in circuit.inputs}
    nx.draw_networkx_edges(
        graph, place, ax=ax, node_size=1300, edge_color="0.45", arrowsize=12, width=1.1
    )
    nx.draw_networkx_edge_labels(
        graph,
        place,
        edge_labels=nx.get_edge_attributes(graph, "local"),
        ax=ax,
        font_size=7,
        label_pos=0.5,
        rotate=False,
    )
    for label, (x, y) in place.items():
        ax.annotate(
            text[label],
            (x, y),
            ha="center",
            va="center",
            fontsize=7,
            zorder=5,
            bbox={
                "boxstyle": "round,pad=0.3",
                "facecolor": "white",
                "edgecolor": COLOURS[1 if label in inputs else 0],
                "linewidth": 1.4,
            },
        )
    ax.margins(0.06)
    ax.set_axis_off()
    ax.set_title("each node: its value and ∂ = ∂L/∂node\neach edge: ∂child/∂node", fontsize="small")
    return ax


def _layers(graph: Any) -> dict[int, list[str]]:
    """Columns, last first, each in the order of what its nodes feed, so that few edges cross."""
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
    """The name, with the expression where it is short; of an unnamed node the bare operation."""
    if node.operation is None:
        return node.name
    if node.name and all(x.name or x.constant is not None for x in node.operands):
        return f"{node.name} = {node.expression(repr)}"
    bare = node.expression(lambda x: "" if x.constant is None else x.short())
    return node.name or bare.replace("()", "").strip()
