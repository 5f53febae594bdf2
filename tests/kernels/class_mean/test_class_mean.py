"""class_mean: every implementation against the float64 loop, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from child import interpreted
from torch import Tensor

from fastass import kernels
from fastass.kernels import native_library
from fastass.kernels.checks import MAX_CLASSES
from fastass.kernels.class_mean import op
from fastass.kernels.nearest import nearest_index, nearest_labels

SHAPES = [  # B, N, h, w, H, W, C
    (1, 64, 91, 161, 720, 1280, 19),
    (3, 24, 65, 129, 512, 1024, 19),
    (2, 37, 9, 13, 50, 71, 7),
    (1, 3, 1, 1, 6, 7, 2),
    (2, 16, 5, 4, 3, 2, 64),  # labels smaller than the features
    (1, 130, 17, 11, 17, 11, 64),
]


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    B, N, h, w, H, W, C = shape
    generator = torch.Generator().manual_seed(sum(shape))
    features = torch.randn(B, N, h, w, generator=generator) + offset
    labels = torch.randint(0, C, (B, H, W), generator=generator).to(torch.uint8)
    # Regions, as in a street scene, over one half; every pixel for itself in the other.
    labels[:, H // 2 :] = labels[:, H // 2 :: max(1, H // 8), ::][:, :1, :1]
    labels[torch.rand(B, H, W, generator=generator) < 0.15] = 255
    return features.to(dtype).contiguous(memory_format=torch.channels_last), labels


def run(
    features: Tensor, labels: Tensor, C: int, choice: str = "auto", aligned: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Means, counts, and the gradient of a weighted sum of the means."""
    features = features.detach().requires_grad_()
    kernels.use(choice)
    try:
        means, counts = kernels.class_mean(features, labels, C, aligned=aligned)
        weight = torch.linspace(-1, 1, means.numel()).view(means.shape).to(means.dtype)
        (gradient,) = torch.autograd.grad((means * weight).sum(), features)
    finally:
        kernels.use("auto")
    return means.detach(), counts, gradient


def error(actual: Tensor, truth: Tensor) -> float:
    return float((actual.double() - truth).abs().max())


def equal(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_at_most_twice_that_of_plain_torch(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    features, labels = inputs(shape, dtype, offset=1.0)
    C = shape[-1]
    means, counts, gradient = run(features, labels, C)
    truth, true_counts, true_gradient = run(features.double(), labels, C, "reference")
    plain, _, plain_gradient = run(features, labels, C, "reference")
    assert means.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(counts, true_counts)
    unit = torch.finfo(torch.float32).eps
    assert error(means, truth) <= 2 * error(plain, truth) + unit
    assert error(gradient, true_gradient) <= 2 * error(plain_gradient, true_gradient) + unit


@pytest.mark.parametrize("instruction_set", native_library.INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_instruction_sets_dtypes_and_layouts(
    instruction_set: str,
    dtype: torch.dtype,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (
        native_library.INSTRUCTION_SETS.index(instruction_set)
        > native_library.library().fastass_best_isa()
    ):
        pytest.skip(f"this processor has no {instruction_set}")
    monkeypatch.setenv("FASTASS_CPU_ISA", instruction_set)
    features, labels = inputs((2, 37, 29, 23, 100, 160, 7), dtype)
    features = features.contiguous(memory_format=layout)
    means, counts, gradient = run(features, labels, 7)
    truth, true_counts, true_gradient = run(features.double(), labels, 7, "reference")
    assert torch.equal(counts, true_counts)
    assert error(means, truth) < 1e-6
    assert error(gradient, true_gradient) < 1e-3 * float(true_gradient.abs().max()) * (
        1e-3 if dtype == torch.float32 else 8
    )
    assert gradient.stride() == features.stride()


def test_strides_and_threads_do_not_matter() -> None:
    features, labels = inputs((2, 40, 29, 23, 100, 160, 7))
    expected = run(features, labels, 7)
    wide = torch.empty(2, 80, 29, 46)[:, ::2, :, ::2].copy_(features)
    tall = torch.empty(2, 160, 100, dtype=torch.uint8).transpose(1, 2).copy_(labels)
    assert equal(run(wide, tall, 7), expected)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 50):
            torch.set_num_threads(threads)
            assert equal(run(features, labels, 7), expected)
    finally:
        torch.set_num_threads(before)


def test_absent_and_ignored() -> None:
    features, labels = inputs((2, 8, 9, 13, 50, 71, 7))
    features.fill_(float("nan"))  # ignored pixels are not even read into a sum
    labels.fill_(255)
    means, counts, gradient = run(features, labels, 7)
    assert counts.sum() == 0
    assert means.abs().sum() == 0
    assert gradient.abs().sum() == 0
    features.fill_(2.0)
    labels.fill_(3)
    means, counts = kernels.class_mean(features, labels, 7)
    assert counts.tolist() == [[0, 0, 0, 9 * 13, 0, 0, 0]] * 2
    assert torch.equal(means[:, 3], torch.full((2, 8), 2.0))
    assert means.sum() == 2 * 8 * 2
    assert kernels.class_mean(features, labels, 7, ignore_index=3)[1].sum() == 0


def test_nearest_index_is_torchs() -> None:
    for size in (1, 2, 3, 65, 91, 129, 161, 257):
        for source in (1, 2, 5, 512, 720, 1024, 1280, 2048):
            line = torch.arange(source, dtype=torch.float32)[None, None]
            expected = F.interpolate(line, size=size, mode="nearest")[0, 0]
            assert torch.equal(nearest_index(size, source).float(), expected), (size, source)
    _, labels = inputs(SHAPES[0])
    by_table = labels[:, nearest_index(91, 720).long()][:, :, nearest_index(161, 1280).long()]
    assert torch.equal(by_table, nearest_labels(labels, (91, 161)))


def test_aligned_labels_are_those_where_upsampling_puts_the_pixel() -> None:
    """An upsampling with aligned corners puts feature pixel i at i · (H − 1) / (h − 1)."""
    for size in (1, 2, 3, 65, 91, 161):
        for source in (1, 2, 5, 512, 720, 1280):
            at = torch.linspace(0, source - 1, size, dtype=torch.float64) if size > 1 else None
            index = nearest_index(size, source, aligned=True).double()
            if at is None:
                assert index.tolist() == [0]
            else:
                assert float((index - at).abs().max()) <= 0.5 + 1e-9, (size, source)
            assert 0 <= int(index.min()) <= int(index.max()) <= source - 1
    _, labels = inputs(SHAPES[0])
    rows, columns = nearest_index(91, 720, True).long(), nearest_index(161, 1280, True).long()
    by_table = labels[:, rows][:, :, columns]
    assert torch.equal(by_table, nearest_labels(labels, (91, 161), aligned=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_aligned_labels(shape: tuple[int, ...]) -> None:
    features, labels = inputs(shape)
    C = shape[-1]
    means, counts, gradient = run(features, labels, C, aligned=True)
    truth, true_counts, true_gradient = run(features.double(), labels, C, "reference", aligned=True)
    assert torch.equal(counts, true_counts)
    assert error(means, truth) < 1e-5
    assert error(gradient, true_gradient) < 1e-6
    floor = run(features, labels, C)[0]
    assert torch.equal(floor, means) == (shape[2:4] == (1, 1) or shape[2:4] == shape[4:6])


@pytest.mark.parametrize("choice", ["reference", "native"])
def test_label_out_of_range_is_refused(choice: str) -> None:
    features, labels = inputs((2, 8, 9, 13, 50, 71, 7))
    labels[:] = 7
    with pytest.raises(ValueError, match="labels: got"):
        run(features, labels, 7, choice)


def test_arguments_are_checked() -> None:
    features, labels = inputs((2, 8, 9, 13, 50, 71, 7))
    with pytest.raises(TypeError, match=r"features: got torch\.float64.*kernels=reference"):
        kernels.class_mean(features.double(), labels, 7)
    with pytest.raises(ValueError, match=r"features: got shape \(8, 9, 13\)"):
        kernels.class_mean(features[0], labels, 7)
    with pytest.raises(ValueError, match="expected non-empty"):
        kernels.class_mean(features[:0], labels[:0], 7)
    with pytest.raises(TypeError, match=r"labels: got torch\.int64, expected torch\.uint8"):
        kernels.class_mean(features, labels.long(), 7)
    with pytest.raises(ValueError, match="labels: got batch 1, expected 2"):
        kernels.class_mean(features, labels[:1], 7)
    with pytest.raises(ValueError, match="labels: got device meta"):
        kernels.class_mean(features, labels.to("meta"), 7)
    with pytest.raises(ValueError, match="num_classes: got 0, expected 1 to 64"):
        kernels.class_mean(features, labels, 0)
    with pytest.raises(ValueError, match="ignore_index: got 256"):
        kernels.class_mean(features, labels, 7, ignore_index=256)


def test_operator_is_registered() -> None:
    features, labels = inputs((2, 8, 9, 13, 50, 71, 7))
    torch.library.opcheck(
        torch.ops.fastass.class_mean, (features.requires_grad_(), labels, 7, 255, True)
    )
    torch.library.opcheck(
        torch.ops.fastass.class_mean,
        (features.detach().contiguous().requires_grad_(), labels, 7, 255, False),
    )


def test_gradcheck_of_the_double_path() -> None:
    features, labels = inputs((2, 3, 3, 4, 10, 14, 4))
    kernels.use("reference")
    try:
        assert torch.autograd.gradcheck(
            lambda f: kernels.class_mean(f, labels, 4)[0], features.double().requires_grad_()
        )
    finally:
        kernels.use("auto")


INDUCTOR = pytest.param(
    "inductor",
    marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")],
)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", INDUCTOR])
def test_compiles_as_one_graph(backend: str) -> None:
    features, labels = inputs((2, 8, 9, 13, 50, 71, 7))
    features.requires_grad_()

    def loss(features: Tensor) -> Tensor:
        means, counts = kernels.class_mean(features.relu(), labels, 7)
        return (means.square() * counts[..., None]).sum()

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    expected, actual = loss(features), compiled(features)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(actual, features)[0],
        torch.autograd.grad(expected, features)[0],
        rtol=1e-6,
        atol=1e-9,
    )


def test_autocast_does_not_change_it() -> None:
    features, labels = inputs((2, 8, 9, 13, 50, 71, 7))
    expected = kernels.class_mean(features, labels, 7)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(kernels.class_mean(features, labels, 7)[0], expected)


def check_triton() -> None:
    """Runs where TRITON_INTERPRET=1."""
    shape = (2, 40, 9, 13, 50, 71, 7)
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.channels_last, torch.contiguous_format):
            features, labels = inputs(shape, dtype)
            features = features.contiguous(memory_format=layout)
            last = layout == torch.channels_last
            aligned = last and dtype == torch.float32
            truth, true_counts, true_gradient = run(
                features.double(), labels, 7, "reference", aligned
            )
            means, counts = op._cuda(features, labels, 7, 255, aligned)
            weight = torch.linspace(-1, 1, means.numel()).view(means.shape)
            size = [9, 13]
            gradient = op._backward_cuda(weight, counts, labels, size, 255, dtype, last, aligned)
            assert torch.equal(counts, true_counts)
            assert error(means, truth) < 1e-6
            tolerance = 1e-6 if dtype == torch.float32 else 8e-3
            assert error(gradient, true_gradient) <= tolerance * float(true_gradient.abs().max())
    # The largest number of classes.
    features, labels = inputs((1, 33, 9, 13, 50, 71, MAX_CLASSES))
    truth, true_counts, _ = run(features.double(), labels, MAX_CLASSES, "reference")
    means, counts = op._cuda(features, labels, MAX_CLASSES, 255, False)
    assert torch.equal(counts, true_counts)
    assert error(means, truth) < 1e-6
    # No class, nor ignored: out of the sums, the image's means say so, as the reference's do.
    features, labels = inputs(shape, dtype)
    labels[1, :25] = 7
    features = features.float().requires_grad_()
    expected, expected_counts = op.reference(features, labels, 7)
    assert expected[1].isnan().all()
    assert not expected[0].isnan().any()
    means, counts = op._cuda(features.detach(), labels, 7, 255, False)
    torch.testing.assert_close(means, expected.detach(), equal_nan=True)
    assert torch.equal(counts, expected_counts)
    weight = torch.linspace(-1, 1, means.numel()).view(means.shape)
    (expected_gradient,) = torch.autograd.grad(expected, features, weight)
    gradient = op._backward_cuda(weight, counts, labels, [9, 13], 255, torch.float32, True, False)
    torch.testing.assert_close(gradient, expected_gradient)


def test_triton_in_the_interpreter() -> None:
    interpreted(__file__)


if __name__ == "__main__":
    check_triton()
