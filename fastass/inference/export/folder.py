"""A folder in the style of Hugging Face: config.json, model.safetensors, README.md.

graph.json lists the network's operations in order as [result, operator, arguments], so a loop of
plain torch can run the network without fastass. An argument that is a string names an earlier
result or a weight.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastass.checkpoint.pointers import MODEL
from fastass.checkpoint.starting_weights import EXPORTED
from fastass.checkpoint.weight_facts import header, serialized
from fastass.errors import ExportFailure
from fastass.inference.export.graph import compare, graph_of
from fastass.inference.load import description, load
from fastass.inference.segmenter import Segmenter
from fastass.models.deeplab import DeepLab

GRAPH, README = "graph.json", "README.md"
FILES = (EXPORTED, MODEL, GRAPH, README)

PLAIN = """\
import json, numpy as np, torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

config, graph = (json.load(open(f"model/{name}.json")) for name in ("config", "graph"))
prepare, values = config["preprocessing"], load_file("model/model.safetensors")
image = Image.open("photo.png").convert("RGB")
levels = np.asarray(image.resize(prepare["size"], Image.Resampling.BICUBIC), np.float32)
levels = (levels[:, :, prepare["channels"]] - prepare["mean"]) * prepare["scale"]
values["image"] = torch.from_numpy(levels).float().permute(2, 0, 1)[None]
for name, op, arguments in graph:
    arguments = [values[a] if isinstance(a, str) else a for a in arguments]
    values[name] = getattr(torch.ops.aten, op)(*arguments)
size, corners = image.size[::-1], config["model"]["align_corners"]
scores = F.interpolate(values["scores"], size, mode="bilinear", align_corners=corners)
labels = scores.argmax(1)[0]  # train ids [H,W]; config["classes"] has their names and colours
"""

RUN_IT = f"""\
## How to run it

`fastass.load("model").predict("photo.png")`, or with plain torch:

```python
{PLAIN}```

`config.json`: the classes by train id, the size of training, and how pixels become the input.
`model.safetensors`: the weights. `graph.json`: the network's operations, in order.
"""

RUN_CHANNELS = """\
## How to run it

`fastass.load("model").predict("image.npy")`, an array [H,W,N] with red, green and blue first.

`config.json`: the classes by train id, the size of training, and how pixels become the input.
`model.safetensors`: the weights. `graph.json`: the network's operations, in order.
"""

RUN_FOREIGN = """\
## How to run it

`fastass.load("model").predict("photo.png")`; it needs
the package of the backbone, which `config.json` names, and no network.

`config.json`: the backbone's configuration, the classes by train id, the size of training, and how
pixels become the input. `model.safetensors`: the weights.
"""


def write_folder(segmenter: Segmenter, path: Path) -> str:
    """Write the folder; → what was checked."""
    path.mkdir()
    config = description(segmenter)
    (path / EXPORTED).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {k: v.contiguous() for k, v in segmenter.generator.state_dict().items()}
    generator, names = segmenter.generator, segmenter.classes.names
    said = header(generator.config, segmenter.prepare.how.name, names)
    (path / MODEL).write_bytes(serialized(weights, {"format": "pt", **said}))
    foreign = segmenter.generator.config.is_foreign
    if not foreign:  # whose operations depend on the image's size
        lines = ",\n".join(json.dumps(entry) for entry in operations(segmenter.generator))
        (path / GRAPH).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    many = segmenter.prepare.how.channels != 3
    how = RUN_FOREIGN if foreign else RUN_CHANNELS if many else RUN_IT
    (path / README).write_text(how, encoding="utf-8")
    loaded = graph_of(load(path, device="cpu"))
    checked = compare(graph_of(segmenter), loaded, segmenter.prepare.size)
    return f"checked after fastass.load, at {checked}"


def operations(generator: DeepLab) -> list[tuple[str, str, list[Any]]]:
    """The operations from `image` (normalised) to `scores` (at feature resolution)."""

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = generator

        def forward(self, image: Tensor) -> Tensor:
            scores: Tensor = self.generator(image).scores
            return scores

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.export.export(
            Scores().eval(), (torch.zeros(1, generator.config.channels, 64, 96),)
        )
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names = {inner: name.removeprefix("generator.") for inner, name in stored.items()}
    names[signature.user_outputs[0]] = "scores"

    def plain(value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return names.get(value.name, value.name)
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        raise ExportFailure(f"graph.json can't hold the argument {value!r}")

    entries = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if node.kwargs or getattr(node.target, "namespace", "") != "aten":
            raise ExportFailure(f"graph.json can't hold the operation {node.format_node()}")
        op = node.target.overloadpacket.__name__
        entries.append((names.get(node.name, node.name), op, [plain(a) for a in node.args]))
    return entries
