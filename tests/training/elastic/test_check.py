"""What `--elastic` refuses, each with one line."""

import socket
from collections.abc import Mapping
from typing import Any

import pytest

from fastass.config.presets import preset
from fastass.config.text import override
from fastass.errors import UserError
from fastass.runtime import elastic
from fastass.training.elastic import check
from fastass.training.elastic.check import check_elastic


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "check_torchft", lambda: None)
    monkeypatch.setattr(check, "check_lighthouse", lambda address: None)
    monkeypatch.delenv("RANK", raising=False)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"runtime.compile": True}, "--compile"),
        ({"runtime.cuda_graph": True}, "--cuda-graph"),
        ({"model.norm": "sync"}, "--model-norm sync"),
        ({"data.loader": "dali"}, "--loader dali"),
        ({"batch": "auto"}, "--batch auto"),
        ({"distributed.compress": True}, "--distributed-compress"),
    ],
)
def test_what_it_cant_do_is_named(values: Mapping[str, Any], named: str) -> None:
    config = preset("toycity")
    check_elastic(config, "http://here:1", overwrite=False)
    with pytest.raises(UserError, match=f"--elastic can't be combined with {named}: "):
        check_elastic(override(config, values), "http://here:1", overwrite=False)


def test_torchrun_and_overwrite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--overwrite"):
        check_elastic(preset("toycity"), "http://here:1", overwrite=True)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="torchrun"):
        check_elastic(preset("toycity"), "http://here:1", overwrite=False)


def test_without_torchft_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="torchft is not installed; pip install torchft"):
        elastic.check_torchft()


@pytest.mark.parametrize(
    "address", ["node1", "node1:29510", "http://node1", "http://a:b", "http://a:99999"]
)
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"expected http://HOST:PORT"):
        elastic.check_lighthouse(address)


def test_where_no_lighthouse_listens() -> None:
    """Found before a run directory is made."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        elastic.check_lighthouse(address)
    with pytest.raises(UserError, match=r"no lighthouse answers there .*refused.*; start one: "):
        elastic.check_lighthouse(address)
