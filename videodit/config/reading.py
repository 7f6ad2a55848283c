"""YAML as a configuration needs it: what two readers would take for different things is not taken at all.

On top of PyYAML's safe loader, which makes nothing but plain values: numbers are those of YAML 1.2 (`1e-3` is one;
`0123` and `1:30`, octal and base 60 to YAML 1.1, stay texts, which no key for numbers takes), dates stay texts, a key
stands once in a mapping, and depth, size and what aliases grow to are bounded.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

LARGEST = 1 << 20  # bytes of a file
DEEPEST = 50
MOST = 10_000  # values, each as often as aliases name it
_TAG = "tag:yaml.org,2002:"
_PLAIN = tuple(_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge"))
_WHOLE = r"(?:0|[1-9][0-9]*)"
_NUMBERS = {  # in this order
    "int": re.compile(rf"[-+]?(?:{_WHOLE}|[1-9][0-9]*(?:_[0-9]+)+|0x[0-9a-fA-F]{{1,16}})$"),
    "float": re.compile(
        rf"(?:[-+]?(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}


def read_yaml(text: str) -> Any:
    """The plain value that a YAML text holds.

    Raises:
        yaml.YAMLError: it is none, or more than the bounds above; says in which line.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        loader.measure(node)
        return loader.construct_document(node)
    except ValueError as error:  # a number of thousands of digits
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with other numbers and with bounds."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, shape) for tag, shape in pairs if tag in _PLAIN and tag[len(_TAG) :] not in _NUMBERS]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = self.count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth, self.count = self.depth + 1, self.count + 1
        if self.depth > DEEPEST:
            raise _wrong(self.peek_event(), f"more than {DEEPEST} values lie in each other")
        if self.count > MOST:
            raise _wrong(self.peek_event(), f"holds more than {MOST} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def measure(self, root: yaml.Node) -> None:
        """Looks through the nodes once, in time of what is written, whatever the aliases grow to."""
        sizes: dict[int, tuple[int, int] | None] = {}  # of each node: values, and how many lie in each other

        def look(node: yaml.Node) -> tuple[int, int]:
            if id(node) in sizes:
                if (known := sizes[id(node)]) is None:
                    raise _wrong(node, "holds an alias of itself")
                return known
            sizes[id(node)] = None
            self.check(node)
            parts = [look(part) for part in _parts(node)]
            size = 1 + sum(size for size, _ in parts)
            depth = 1 + max((depth for _, depth in parts), default=0)
            if size > MOST or depth > DEEPEST:
                raise _wrong(node, f"aliases make more than {MOST} values of it, or more than {DEEPEST} in each other")
            sizes[id(node)] = size, depth
            return size, depth

        look(root)

    def check(self, node: yaml.Node) -> None:
        """Its tag, and that no key stands twice."""
        if node.tag not in _PLAIN:
            raise _wrong(node, f"{node.tag!r} is no plain value")
        if isinstance(node, yaml.ScalarNode) and node.tag not in (_TAG + "str", self.resolve(*_as_written(node))):
            raise _wrong(node, f"{node.value!r} is not what its tag {node.tag!r} says")
        if isinstance(node, yaml.MappingNode):
            seen: dict[tuple[str, str], yaml.Node] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != _TAG + "merge":
                    before = seen.setdefault((key.tag, key.value), key)
                    if before is not key:
                        line = before.start_mark.line + 1
                        raise _wrong(key, f"the key {key.value!r} stands here and in line {line}: take one out")


for _name, _shape in _NUMBERS.items():
    _Loader.add_implicit_resolver(_TAG + _name, _shape, list("-+.0123456789"))


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _as_written(node: yaml.ScalarNode) -> tuple[type[yaml.Node], str, tuple[bool, bool]]:
    return yaml.ScalarNode, node.value, (True, False)


def _wrong(at: Any, what: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {at.start_mark.line + 1}: {what}")
