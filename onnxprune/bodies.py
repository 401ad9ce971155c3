"""Graphs inside of nodes: what they read from outside, and the one that a constant condition chooses.

A body that runs or doesn't, or runs many times, isn't looked into: what it reads of the graphs around it stays. The
exception is an If whose condition is a constant, as exporters write them for what was decided in Python: a `Graph`
lists the nodes of the chosen body in its place (`chosen`), and a pruned model is written that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from onnx import AttributeProto, GraphProto, NodeProto, helper


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of If, Loop and Scan."""
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        elif a.type == AttributeProto.GRAPHS:
            yield from a.graphs


def own_names(body: GraphProto) -> set[str]:
    """Names of the values that a body itself makes or is given."""
    made = {name for node in body.node for name in node.output if name}
    return made | {i.name for i in body.input} | {t.name for t in body.initializer}


def outer_names(body: GraphProto) -> set[str]:
    """Names that a body reads from the graphs around it."""
    used = {name for node in body.node for name in node.input if name} | {o.name for o in body.output}
    for node in body.node:
        for inner in subgraphs(node):
            used |= outer_names(inner)
    return used - own_names(body)


def inner_names(node: NodeProto) -> set[str]:
    """All names that are made inside of a node, at any depth."""
    return set().union(*(own_names(b).union(*(inner_names(n) for n in b.node)) for b in subgraphs(node)))


def chosen(node: NodeProto, condition: bool, name: Callable[[str], str]) -> list[NodeProto]:
    """The nodes that an If stands for when its condition is known; `name` makes a name that isn't taken.

    Raises ValueError for a body with a sparse constant.
    """
    body = next(a.g for a in node.attribute if a.name == ("then_branch" if condition else "else_branch"))
    if body.sparse_initializer:
        raise ValueError(node.op_type)
    renamed = {old: name(old) for old in sorted(own_names(body))}
    nodes = [helper.make_node("Constant", [], [renamed[t.name]], value=t) for t in body.initializer]
    for inner in body.node:
        nodes.append(_renamed(inner, renamed))
        nodes[-1].name = name(inner.name) if inner.name else ""
    ends = zip(body.output, node.output, strict=True)
    nodes += [helper.make_node("Identity", [renamed.get(o.name, o.name)], [outer]) for o, outer in ends if outer]
    return nodes


def _renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of a node with other names of values, also where its bodies read them."""
    new = NodeProto()
    new.CopyFrom(node)
    for field in (new.input, new.output):
        field[:] = [names.get(name, name) for name in field]
    for body in subgraphs(new):
        _rename(body, names)
    return new


def _rename(body: GraphProto, names: Mapping[str, str]) -> None:
    """Rename what a body reads from outside."""
    own = own_names(body)
    visible = {old: new for old, new in names.items() if old not in own}
    nodes = [_renamed(node, visible) for node in body.node]
    del body.node[:]
    body.node.extend(nodes)
    for output in body.output:
        output.name = visible.get(output.name, output.name)
