"""YAML written by anybody: plain data, in bounded time and memory."""

from __future__ import annotations

from typing import Any, Final

import yaml

MAX_NODES: Final = 100_000
"""Most values with every alias written out: a few lines of aliases of aliases stand for billions."""


class PlainYamlError(ValueError):
    """The text is no YAML, or stands for too much."""


def plain_yaml(text: str) -> Any:
    """What the text says, in dicts, lists, strings and numbers.

    Raises:
        PlainYamlError: says where the text stops being YAML, or that its aliases stand for more than memory holds.
    """
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if _expanded(root, {}) > MAX_NODES:
            raise PlainYamlError(f"stands for more than {MAX_NODES} values; write fewer aliases of aliases")
        return loader.construct_document(root) if root else None
    except PlainYamlError:
        raise
    # Tags that do not fit their value make PyYAML raise the built-in errors too.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PlainYamlError(f"not readable as YAML: {str(error) or type(error).__name__}") from None
    finally:
        if loader:
            loader.dispose()


def _expanded(node: yaml.Node | None, sizes: dict[int, int]) -> int:
    """How many values a node stands for, aliases written out; one that holds itself stands for too many."""
    if isinstance(node, yaml.ScalarNode):
        node.value.encode()  # half a surrogate pair, as "\ud800" makes it, could not be printed or stored
    if not isinstance(node, yaml.SequenceNode | yaml.MappingNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = MAX_NODES + 1  # while its children are counted
        children = node.value if isinstance(node, yaml.SequenceNode) else [n for pair in node.value for n in pair]
        sizes[id(node)] = 1 + sum(_expanded(child, sizes) for child in children)
    return sizes[id(node)]
