"""The fixed order in which the states of shards are merged, however many ranks hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

# the shards [start, stop) below a node of the tree
Node = tuple[int, int]

# what is known of a node: an answer over its rows alone
Partial = TypeVar("Partial")


def halves(node: Node) -> tuple[Node, Node]:
    """Return the two nodes below one of at least two shards: the first has a power of two of them."""
    start, stop = node
    middle = start + (1 << ((stop - start - 1).bit_length() - 1))
    return (start, middle), (middle, stop)


def cover(held: Node, node: Node) -> list[Node]:
    """Return the fewest nodes at and below `node` that hold its shards within `held`, in rising order."""
    start, stop = max(held[0], node[0]), min(held[1], node[1])
    if start >= stop:
        return []
    if (start, stop) == node:
        return [node]
    return [found for half in halves(node) for found in cover(held, half)]


def merged(parts: Mapping[Node, Partial], node: Node, merge: Callable[[Partial, Partial], Partial]) -> Partial:
    """Return the value of `node` from `parts`, the values of nodes that cover it, merged in the order of the tree."""
    if node in parts:
        return parts[node]
    first, second = halves(node)
    return merge(merged(parts, first, merge), merged(parts, second, merge))
