"""Reads a YAML file that somebody else wrote: small, without aliases, no key twice."""

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


def read_yaml(path: File) -> Any:
    """The content of a YAML file. Raises DataError: not readable, too large, not valid YAML."""
    data = read_file(path)
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        return yaml.load(data.decode(), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
