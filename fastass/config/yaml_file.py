"""Reads a YAML file that somebody else wrote: small, without aliases, no key twice."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from fastass.errors import UserError

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


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises UserError: not readable, too large, not valid YAML."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: not a configuration: it has more than {MAX_BYTES} bytes")
    try:
        return yaml.load(data.decode(), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not readable as YAML: {reason}") from None
