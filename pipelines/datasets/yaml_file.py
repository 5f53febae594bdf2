"""Reads a YAML file that somebody else wrote: small, without aliases, no key twice.

Values are read as YAML 1.2 says, and as people mean them: `011` is eleven, `yes` and `1:30` are
text. PyYAML knows YAML 1.1, where they are nine, true and ninety.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from fastass.pipelines.datasets.files import File, read_file
from fastass.pipelines.errors import DataError

MAX_BYTES = 1 << 18


class _Loader(yaml.SafeLoader):
    """Refuses aliases, by which 200 bytes become 10^8 values, and keys that replace each other."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"the key {key.value!r} occurs twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Writes what `read_yaml` reads back: quotes texts that would be numbers there."""


_TAG = "tag:yaml.org,2002:"
_PLAIN = {  # YAML 1.2's core schema, without its octal and hexadecimal numbers
    "null": (r"(~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    "bool": (r"(true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    "int": (r"[-+]?[0-9]+\Z", list("-+0123456789")),
    "float": (
        r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z",
        list("-+0123456789."),
    ),
}
_Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _PLAIN.items():
    for _class in (_Loader, Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)


_Loader.add_constructor(f"{_TAG}int", _decimal)


def read_yaml(path: File) -> Any:
    """The content of a YAML file. Raises DataError: not readable, too large, not valid YAML."""
    data = read_file(path)
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        return yaml.load(data.decode(), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
