"""What one recorded operation costs: kernels, bytes and FLOPs, and the part of the step it is of.

An operator is one kernel that reads its inputs and writes its outputs once; a batch norm reads its
inputs twice; a convolution with a bias has a pass more; a convolution's backward is a kernel for
each gradient; one of the project's operators is as many kernels as its launcher starts. FLOPs are
those of matrix products alone.
The recorder is tests/fake_cuda/recorder.py; this module needs no torch to be imported.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from fastass.bench.model.flops import semantic_backward, semantic_forward
from fastass.bench.model.rates import CLASSES, convolution_kind


class Recorded(Protocol):
    """An operation, as the recorder keeps it; a tensor is its `shape`, `stride` and `nbytes`."""

    name: str
    arguments: Any
    launches: bool
    multiplies: bool

    @property
    def inputs(self) -> Sequence[Any]: ...
    @property
    def outputs(self) -> Sequence[Any]: ...
    @property
    def inner(self) -> Sequence[Any]: ...


class Cost(NamedTuple):
    """Of one kernel, or of an operator that is several."""

    part: str
    what: str
    kind: str
    kernels: int
    bytes: int
    flops: int


LOSSES = ("upsample_cross_entropy", "upsample_softmax", "upsample_softmax_backward")
SEMANTIC = ("pixel_discriminator_loss", "class_mean")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_addmm_activation")
FUSED = ("cudnn_convolution_relu", "cudnn_convolution_add_relu")
NORMS = ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm", "batch_norm")
OPTIMIZERS = ("_fused_", "_foreach_")


def costs(ops: Sequence[Recorded]) -> Iterator[Cost]:
    """Of every operation that starts a kernel. ValueError for a product that has no rule here."""
    for op in ops:
        if op.launches:
            yield from cost(op)


def cost(op: Recorded) -> Iterator[Cost]:
    space, _, rest = op.name.partition("::" if "::" in op.name else ":")
    what = rest.split(".")[0] if space != "triton" else rest
    if space == "triton":
        yield _triton(op, what)
    elif space == "fastass":
        yield _own(op, what)
    elif what == "convolution":
        yield from _convolution(op)
    elif what in FUSED:
        yield _fused_convolution(op)
    elif what == "convolution_backward":
        yield from _convolution_backward(op)
    elif what in PRODUCTS:
        yield _product(op, what)
    elif op.multiplies:
        raise ValueError(f"{op.name} multiplies matrices: give it a rule in bench/model/count.py")
    elif what.startswith(NORMS):
        yield _torch_norm(op, what)
    else:
        yield Cost(_part(op, what), what, "", 1, _touched(op), 0)


def _touched(op: Recorded) -> int:
    touched: int = sum(t.nbytes for t in (*op.inputs, *op.outputs))
    return touched


def _part(op: Recorded, what: str) -> str:
    """Of an elementwise operator or a reduction."""
    if what.startswith(OPTIMIZERS):
        return "optimizers"
    maps = any(
        len(t.shape) == 4 and (t.shape[2] > 7 or t.shape[3] > 7) for t in (*op.inputs, *op.outputs)
    )
    if not maps:
        return "parameters and scalars"
    if what == "threshold_backward":
        return "ReLU backward"
    return "sums of maps" if what.startswith("add") else "other passes over maps"


def _torch_norm(op: Recorded, what: str) -> Cost:
    """A batch norm reads its maps twice: for the sums over all pixels, and to normalise by them."""
    maps = sum(t.nbytes for t in op.inputs if len(t.shape) == 4)
    return Cost("batch norm", what, "", 1, _touched(op) + maps, 0)


# --- convolutions and matrix products -------------------------------------------------------------


def _network(outputs: int, kernel: int) -> str:
    """Which network a convolution belongs to; "" is the backbone."""
    if kernel == 4:
        return "D_g"
    return "classifier" if outputs % CLASSES == 0 else ""


def _sizes(weight: Any, result: Any) -> tuple[int, int, int, int]:
    """(inputs, outputs, kernel, FLOPs) of a convolution with the result [B,M,h,w]."""
    outputs, inputs, kernel, _ = weight.shape
    pixels = result.shape[0] * result.shape[2] * result.shape[3]
    return inputs, outputs, kernel, 2 * pixels * outputs * inputs * kernel * kernel


def _convolution(op: Recorded) -> Iterator[Cost]:
    (x, weight, *bias), result = op.inputs, op.outputs[0]
    inputs, outputs, kernel, flops = _sizes(weight, result)
    part = _network(outputs, kernel)
    nbytes = x.nbytes + weight.nbytes + result.nbytes
    kind = convolution_kind(inputs, outputs)
    yield Cost(part or "convolutions, forward", "forward", kind, 1, nbytes, flops)
    if bias:
        yield Cost(part or "bias", "bias", "", 1, 2 * result.nbytes, 0)


def _fused_convolution(op: Recorded) -> Cost:
    """With its bias, residual and ReLU: one kernel."""
    inputs, outputs, _, flops = _sizes(op.inputs[1], op.outputs[0])
    kind = convolution_kind(inputs, outputs)
    return Cost("convolutions, forward", "forward, fused", kind, 1, _touched(op), flops)


def _pointwise(op: Recorded) -> Cost:
    """A 1×1 convolution, or the gradient of its input, with its epilogue."""
    given = op.arguments
    pixels, inputs = given["x"].shape
    outputs = given["y"].shape[1]
    rows = pixels * (inputs + outputs * (1 + given["RESIDUAL"] + given["GATE"]))
    nbytes = rows * given["x"].nbytes // (pixels * inputs) + given["weight"].nbytes
    way = "input gradient" if given["GATE"] or not given["BIAS"] else "forward"
    kind, flops = convolution_kind(inputs, outputs), 2 * pixels * inputs * outputs
    return Cost(f"convolutions, {way}", f"{way}, product", kind, 1, nbytes, flops)


def _pointwise_moments(op: Recorded) -> Cost:
    """A 1×1 convolution that takes its output's statistics: their parts are written and read."""
    x, weight, y = (op.arguments[name] for name in ("x", "weight", "y"))
    parts = sum(op.arguments[name].nbytes for name in ("means", "deviations"))
    nbytes = x.nbytes + weight.nbytes + y.nbytes + 2 * parts
    (outputs, inputs), flops = weight.shape, 2 * x.shape[0] * weight.shape[0] * weight.shape[1]
    kind = convolution_kind(inputs, outputs)
    return Cost("convolutions, forward", "forward, product, moments", kind, 1, nbytes, flops)


def _convolution_backward(op: Recorded) -> Iterator[Cost]:
    gradient, x, weight = op.inputs[:3]
    inputs, outputs, kernel, flops = _sizes(weight, gradient)
    part = _network(outputs, kernel)
    nbytes = gradient.nbytes + weight.nbytes + x.nbytes
    kind = convolution_kind(inputs, outputs)
    to_x, to_weight, to_bias = op.arguments[-1]
    if to_x:
        yield Cost(part or "convolutions, input gradient", "input", kind, 1, nbytes, flops)
    if to_weight:
        yield Cost(part or "convolutions, weight gradient", "weight", kind, 1, nbytes, flops)
    if to_bias:
        yield Cost(part or "bias", "bias gradient", "", 1, gradient.nbytes, 0)


def _product(op: Recorded, what: str) -> Cost:
    """A matrix product; its factors are the last two inputs with two dimensions or more."""
    a, b = [t for t in op.inputs if len(t.shape) >= 2][-2:]
    batch = a.shape[0] if len(a.shape) == 3 else 1
    flops = 2 * batch * a.shape[-2] * a.shape[-1] * b.shape[-1]
    return Cost("matrix products", what, "wide", 1, _touched(op), flops)


# --- the project's kernels ------------------------------------------------------------------------


def _triton(op: Recorded, what: str) -> Cost:
    if what == "convolution.fused.pointwise_gpu._kernel":
        return _pointwise(op)
    if what == "convolution.norm.pointwise_gpu._kernel":
        return _pointwise_moments(op)
    if op.multiplies:
        raise ValueError(f"{what} multiplies matrices: give it a rule in bench/model/count.py")
    if what.startswith("convolution.norm.gpu."):
        return _norm(op, what)
    if what == "convolution.epilogue_gpu._kernel":
        x, given = op.arguments["x"].nbytes, op.arguments
        part, what = ("gates", "gate") if given["GATE"] else ("epilogues", "epilogue")
        return Cost(part, what, "", 1, x * (2 + given["RESIDUAL"] + given["GATE"]), 0)
    return Cost("other Triton kernels", what, "", 1, sum(t.nbytes for t in op.inputs), 0)


def _norm(op: Recorded, what: str) -> Cost:
    """Every map once; the vectors and partial sums are read by many programs and stay in caches."""
    given, maps = op.arguments, ("x", "residual", "gradient", "y", "of_x")
    nbytes = sum(given[name].nbytes for name in maps if name in given)
    if "RESIDUAL" in given and not given["RESIDUAL"]:
        nbytes -= given["residual"].nbytes
    return Cost("batch norm", what.rpartition(".")[2], "", 1, nbytes, 0)


def _own(op: Recorded, what: str) -> Cost:
    kernels = sum(inner.launches for inner in op.inner)
    part = "cross-entropy and P" if what.startswith(LOSSES) else "D_s"
    part = part if what.startswith((*LOSSES, *SEMANTIC)) else "other Triton kernels"
    rule = RULES.get(what)
    if rule is not None:
        nbytes, flops = rule(op)
        return Cost(part, what, "wide" if flops else "", kernels, nbytes, flops)
    if any(inner.multiplies for inner in op.inner):
        raise ValueError(f"{op.name} multiplies matrices: give it a rule in bench/model/count.py")
    return Cost(part, what, "", kernels, _touched(op), 0)


def _semantic_forward(op: Recorded) -> tuple[int, int]:
    """F twice (the products, the weight's gradient), the hidden map in bf16 in and out and back."""
    features, weight1, weight2 = op.inputs[0], op.inputs[2], op.inputs[4]
    B, _, h, w = features.shape
    trained = bool(op.outputs[4].shape[0])
    flops = semantic_forward(features.shape, weight1.shape, weight2.shape, trained)
    return 2 * features.nbytes + B * h * w * weight1.shape[0] * 2 * 6, flops


def _semantic_backward(op: Recorded) -> tuple[int, int]:
    hidden, features = op.inputs[2], op.outputs[0]
    return hidden.nbytes + features.nbytes, semantic_backward(hidden.shape, features.shape)


def _touched_only(op: Recorded) -> tuple[int, int]:
    """Products with one-hot labels: sums in the form of products, no FLOPs of the model."""
    return _touched(op), 0


RULES: dict[str, Callable[[Recorded], tuple[int, int]]] = {
    "pixel_discriminator_loss": _semantic_forward,
    "pixel_discriminator_loss_backward": _semantic_backward,
    "class_mean": _touched_only,
    "class_mean_backward": _touched_only,
}
