"""torch.export's own format, .pt2: runs with torch alone."""

import io
import json
import warnings
from pathlib import Path

import torch

from fastass.inference.export.graph import FREE, OUTPUT, compare, example, graph_of, input_of
from fastass.inference.load import description
from fastass.inference.segmenter import Segmenter

METADATA = "fastass.json"  # the extra file in it


def write_torch(segmenter: Segmenter, path: Path) -> str:
    """Write one .pt2 file with its metadata; → what was checked."""
    graph = graph_of(segmenter)
    free = dict.fromkeys(FREE, torch.export.Dim.AUTO)
    about = {"input": input_of(segmenter), "output": OUTPUT, **description(segmenter)}
    buffer = io.BytesIO()  # torch's own writer hides errors of the disk
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.export.export(graph, (example(graph.channels),), dynamic_shapes=(free,))
        torch.export.save(program, buffer, extra_files={METADATA: json.dumps(about, indent=2)})
    path.write_bytes(buffer.getvalue())
    with warnings.catch_warnings(), open(path, "rb") as file:
        warnings.simplefilter("ignore")
        loaded = torch.export.load(file).module()
    checked = compare(graph, loaded, segmenter.prepare.size)
    return f"checked after torch.export.load, at {checked}"
