"""ONNX, checked with ONNX Runtime where it is installed."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastass.errors import UserError
from fastass.inference.export.graph import FREE, OUTPUT, Graph, compare, example, graph_of, input_of
from fastass.inference.load import description
from fastass.inference.segmenter import Segmenter


def write_onnx(segmenter: Segmenter, path: Path) -> str:
    """Write one ONNX file, weights and metadata in it; → what was checked."""
    graph = graph_of(segmenter)
    program = _program(graph)
    about = {"input": input_of(segmenter), "output": OUTPUT, **description(segmenter)}
    for key, value in about.items():
        text = value if isinstance(value, str) else json.dumps(value)
        program.model.metadata_props[key] = text
    program.save(str(path), external_data=False)
    try:
        import onnxruntime
    except ImportError:
        return "not checked: ONNX Runtime is not installed; pip install onnxruntime"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["scores"], {"image": image.numpy()})[0])

    checked = compare(graph, run, segmenter.prepare.size)
    return f"checked with ONNX Runtime {onnxruntime.__version__} at {checked}"


def _program(graph: Graph) -> Any:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX export needs the package {error.name}: pip install onnx onnxscript onnxruntime"
        ) from None
    # Silence torch's own deprecations, and its warning that torchvision is missing.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            graph,
            (example(graph.channels),),
            dynamo=True,
            input_names=["image"],
            output_names=["scores"],
            dynamic_shapes=(FREE,),
            verbose=False,
        )
