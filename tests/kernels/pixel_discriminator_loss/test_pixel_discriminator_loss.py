"""pixel_discriminator_loss: every implementation against two plain float64 forwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pixel_losses import MODES, SMALL, Weights, double, error, inputs, run
from torch import Tensor, nn

from fastass import kernels
from fastass.kernels import native_library
from fastass.kernels.pixel_discriminator_loss import cpu as cpu

SHAPES = [  # B, N, h, w, H, W, M, C
    (1, 64, 91, 161, 720, 1280, 48, 19),
    (2, 16, 65, 129, 512, 1024, 24, 19),
    (3, 37, 9, 13, 50, 71, 50, 7),
    (1, 5, 1, 1, 6, 7, 3, 1),
    (1, 8, 20, 15, 30, 20, 16, 64),
]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("domain", "adversarial"), MODES)
def test_error_is_at_most_twice_that_of_plain_torch(
    shape: tuple[int, ...], domain: int, adversarial: bool
) -> None:
    features, labels, weights = inputs(shape)
    options: dict[str, Any] = {"domain": domain, "adversarial": adversarial}
    ours = run(features, labels, weights, **options)
    plain = run(features, labels, weights, "reference", **options)
    truth = run(features.double(), labels, double(weights), "reference", **options)
    for position, (a, b, t) in enumerate(zip(ours, plain, truth, strict=True)):
        unit = torch.finfo(torch.float32).eps * max(float(t.abs().max()), 1e-30)
        assert error(a, t) <= 2 * error(b, t) + unit, position
    if not adversarial:
        assert ours[1] == 0
        assert ours[2].abs().sum() == 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_aligned_labels(shape: tuple[int, ...]) -> None:
    features, labels, weights = inputs(shape)
    options: dict[str, Any] = {"domain": 0, "adversarial": True, "aligned": True}
    ours = run(features, labels, weights, **options)
    truth = run(features.double(), labels, double(weights), "reference", **options)
    for a, t in zip(ours, truth, strict=True):
        assert error(a, t) <= 1e-6 * max(1, float(t.abs().max()))
    floor = run(features, labels, weights, domain=0, adversarial=True)
    assert torch.equal(floor[0], ours[0]) == (shape[2:4] == (1, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("domain", "adversarial"), MODES)
def test_reduced_precision(dtype: torch.dtype, domain: int, adversarial: bool) -> None:
    features, labels, weights = inputs((2, 64, 23, 31, 80, 90, 96, 19), dtype)
    options: dict[str, Any] = {"domain": domain, "adversarial": adversarial}
    ours = run(features, labels, weights, **options)
    plain = run(features, labels, tuple(w.to(dtype) for w in weights), "reference", **options)  # type: ignore[arg-type]
    truth = run(features.double(), labels, double(weights), "reference", **options)
    assert [tensor.dtype for tensor in ours[2:4]] == [dtype, dtype]
    for a, b, t in zip(ours, plain, truth, strict=True):
        assert error(a, t) <= 2 * error(b, t) + 1e-7


@pytest.mark.parametrize("instruction_set", native_library.INSTRUCTION_SETS)
@pytest.mark.parametrize(("domain", "adversarial"), MODES)
def test_instruction_sets(
    instruction_set: str, domain: int, adversarial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (
        native_library.INSTRUCTION_SETS.index(instruction_set)
        > native_library.library().fastass_best_isa()
    ):
        pytest.skip(f"this processor has no {instruction_set}")
    monkeypatch.setenv("FASTASS_CPU_ISA", instruction_set)
    for shape in SHAPES[2:]:
        features, labels, weights = inputs(shape)
        options: dict[str, Any] = {
            "domain": domain,
            "adversarial": adversarial,
            "negative_slope": 0.1,
        }
        ours = run(features, labels, weights, **options)
        truth = run(features.double(), labels, double(weights), "reference", **options)
        for a, t in zip(ours, truth, strict=True):
            assert error(a, t) <= 1e-6 * max(1, float(t.abs().max()))


def test_blocks_strides_and_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, weights = inputs(SMALL)
    expected = run(features, labels, weights, domain=0, adversarial=True)
    wide = torch.empty(2, 48, 9, 26)[:, ::2, :, ::2].copy_(features)
    tall = torch.empty(2, 71, 50, dtype=torch.uint8).transpose(1, 2).copy_(labels)
    turned = tuple(w.t().contiguous().t() if w.dim() == 2 else w for w in weights)
    for a, b in zip(run(wide, tall, turned, domain=0, adversarial=True), expected, strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    monkeypatch.setattr(cpu, "BLOCK", 50)
    for a, b in zip(
        run(features, labels, weights, domain=0, adversarial=True), expected, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        for a, b in zip(
            run(features, labels, weights, domain=0, adversarial=True), expected, strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    finally:
        torch.set_num_threads(before)


def test_repeats_bit_for_bit() -> None:
    features, labels, weights = inputs(SHAPES[0])
    first, second = (run(features, labels, weights, domain=0, adversarial=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("choice", ["native", "reference"])
def test_all_ignored_gives_zero(choice: str) -> None:
    features, labels, weights = inputs(SMALL)
    labels.fill_(255)
    for tensor in run(features, labels, weights, choice, domain=0, adversarial=True):
        assert tensor.abs().sum() == 0


@pytest.mark.parametrize("ignored", [0, 1])
def test_none_or_one_image_ignored(ignored: int) -> None:
    features, labels, weights = inputs(SMALL)
    labels[labels == 255] = 2
    labels[:ignored] = 255
    ours = run(features, labels, weights, domain=0, adversarial=True)
    truth = run(features.double(), labels, double(weights), "reference", domain=0, adversarial=True)
    for a, t in zip(ours, truth, strict=True):
        assert error(a, t) <= 1e-6 * max(1, float(t.abs().max()))
    assert ours[2][:ignored].abs().sum() == 0


def test_gradients_only_where_they_are_wanted() -> None:
    features, labels, weights = inputs(SMALL)
    features.requires_grad_()
    domain, adversarial = kernels.pixel_discriminator_loss(
        features, labels, *weights, domain=0, adversarial=True
    )
    (gradient,) = torch.autograd.grad(domain + adversarial, features)
    expected = run(features, labels, weights, domain=0, adversarial=True)[2]
    torch.testing.assert_close(gradient, expected / 0.3, rtol=1e-5, atol=1e-8)
    with torch.no_grad():
        losses = kernels.pixel_discriminator_loss(
            features, labels, *weights, domain=0, adversarial=True
        )
    assert not losses[0].requires_grad
    assert [*losses] == [domain, adversarial]


def test_label_out_of_range_is_refused() -> None:
    features, labels, weights = inputs(SMALL)
    labels[:] = 7
    for choice in ("reference", "native"):
        with pytest.raises(ValueError, match="labels: got"):
            run(features, labels, weights, choice, domain=0, adversarial=True)


def test_arguments_are_checked() -> None:
    features, labels, (w1, b1, w2, b2) = inputs(SMALL)

    def call(*arguments: Tensor, domain: int = 0, **options: Any) -> None:
        kernels.pixel_discriminator_loss(*arguments, domain=domain, adversarial=True, **options)

    with pytest.raises(TypeError, match=r"features: got torch\.float64.*kernels=reference"):
        call(features.double(), labels, w1, b1, w2, b2)
    with pytest.raises(TypeError, match=r"weight1: got torch\.float32, expected torch\.bfloat16"):
        call(features.bfloat16(), labels, w1, b1, w2, b2)
    with pytest.raises(TypeError, match=r"labels: got torch\.int64"):
        call(features, labels.long(), w1, b1, w2, b2)
    with pytest.raises(ValueError, match=r"weight1: got shape \(40, 20\), expected \(40, 24\)"):
        call(features, labels, w1[:, :20], b1, w2, b2)
    with pytest.raises(ValueError, match=r"bias1: got shape \(3,\)"):
        call(features, labels, w1, b1[:3], w2, b2)
    with pytest.raises(ValueError, match=r"weight2: got shape \(13, 40\), expected \[2C, M\]"):
        call(features, labels, w1, b1, w2[:13], b2)
    with pytest.raises(ValueError, match=r"bias2: got shape \(13,\)"):
        call(features, labels, w1, b1, w2, b2[:13])
    with pytest.raises(ValueError, match="bias2: got device meta"):
        call(features, labels, w1, b1, w2, b2.to("meta"))
    with pytest.raises(ValueError, match="domain: got 2"):
        call(features, labels, w1, b1, w2, b2, domain=2)
    with pytest.raises(ValueError, match="negative_slope: got -1"):
        call(features, labels, w1, b1, w2, b2, negative_slope=-1)


@pytest.mark.parametrize(("domain", "adversarial"), [(0, True), (1, False)])
def test_operator_is_registered(domain: int, adversarial: bool) -> None:
    features, labels, weights = inputs((1, 6, 4, 5, 10, 12, 8, 3))
    leaves = [tensor.requires_grad_() for tensor in weights]
    torch.library.opcheck(
        torch.ops.fastass.pixel_discriminator_loss,
        (
            *(features.requires_grad_(), labels, *leaves),
            *(domain, adversarial, 0.2, 255, True, adversarial, domain == 1),
        ),
    )


@pytest.mark.parametrize("domain", [0, 1])
def test_gradcheck_of_the_double_path(domain: int) -> None:
    features, labels, weights = inputs((1, 3, 3, 4, 10, 14, 4, 2))
    leaves = [tensor.double().requires_grad_() for tensor in (features, *weights)]
    kernels.use("reference")
    try:
        # Each loss by itself, with respect to what it reaches.
        def losses(f: Tensor, *w: Tensor) -> tuple[Tensor, Tensor]:
            return kernels.pixel_discriminator_loss(f, labels, *w, domain=domain, adversarial=True)

        assert torch.autograd.gradcheck(
            lambda *w: losses(leaves[0].detach(), *w)[0], tuple(leaves[1:])
        )
        assert torch.autograd.gradcheck(
            lambda f: losses(f, *(w.detach() for w in leaves[1:]))[1], leaves[0]
        )
    finally:
        kernels.use("auto")


INDUCTOR = pytest.param(
    "inductor",
    marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")],
)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", INDUCTOR])
def test_compiles_as_one_graph(backend: str) -> None:
    features, labels, weights = inputs(SMALL)
    leaves = [tensor.requires_grad_() for tensor in (features, *weights)]

    def loss(features: Tensor, *weights: Tensor) -> Tensor:
        domain, adversarial = kernels.pixel_discriminator_loss(
            features * 2, labels, *weights, domain=0, adversarial=True
        )
        return domain + 0.01 * adversarial

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    expected, actual = loss(*leaves), compiled(*leaves)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    for a, b in zip(
        torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("choice", ["native", "reference"])
def test_autocast_sets_the_compute_dtype(choice: str) -> None:
    features, labels, weights = inputs(SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = run(features, labels, weights, choice, domain=0, adversarial=True)
    by_hand = run(
        features.bfloat16(),
        labels,
        (weights[0].bfloat16(), *weights[1:]),
        domain=0,
        adversarial=True,
    )
    assert all(tensor.dtype == torch.float32 for tensor in ours)
    for a, b in zip(ours, by_hand, strict=True):
        tolerance = 0 if choice == "native" else 0.02 * float(b.abs().max())
        assert error(a, b.double()) <= tolerance


class Losses(nn.Module):
    """Both losses as a module with the weights as parameters."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weight.clone() for weight in weights)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        domain, adversarial = kernels.pixel_discriminator_loss(
            features, labels, *self.weights, domain=0, adversarial=True
        )
        return domain + adversarial


def test_distributed_data_parallel(tmp_path: Path) -> None:
    features, labels, weights = inputs(SMALL)
    alone = Losses(weights)
    alone(features, labels).backward()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(Losses(weights))
        features.requires_grad_()
        wrapped(features, labels).backward()
        dist.barrier()  # gloo's threads, joined with the GIL held, may need it for what DDP queued
    finally:
        dist.destroy_process_group()
    for ours, expected in zip(wrapped.parameters(), alone.parameters(), strict=True):
        assert ours.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(ours.grad, expected.grad)
    assert features.grad is not None
