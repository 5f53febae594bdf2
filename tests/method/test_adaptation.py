"""One backward of the objective gives the gradients of the alternating procedure, in float64."""

from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass import kernels
from fastass.config.schema import Config, DiscriminatorConfig, LossConfig
from fastass.kernels.convolution.running_statistics import BatchStatistics
from fastass.method.adaptation import Adaptation, MethodSpec, method_spec, objective
from fastass.models.config import ModelConfig
from fastass.models.deeplab import Output
from fastass.models.domain_statistics import TargetStatistics, running_norms
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.training.step import build

CLASSES, IGNORE, ABSENT = 5, 255, 3
METHODS = ("oracle", "source_only", "joint", "ga", "ga+fcsa", "ga+csa")
# Weights of a size at which every term shows in the gradients.
WEIGHTS = LossConfig(seg=1.3, gadv=0.7, sadv=0.9, gd=0.5, sd=0.6, aux_seg=0.4, aux_gadv=0.3)


@pytest.fixture(autouse=True)
def reference_kernels() -> Iterator[None]:
    before = kernels.choice()
    kernels.use("reference")
    yield
    kernels.use(before)


def images(seed: int, height: int, width: int, labels: bool = True) -> Batch:
    """Two random images; 20 % of the pixels ignored, class ABSENT nowhere."""
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randn(2, 3, height, width, generator=g, dtype=torch.float64)
    if not labels:
        return Batch(pixels, None)
    truth = torch.randint(0, CLASSES, (2, height, width), generator=g)
    truth[truth == ABSENT] = 0
    truth[torch.rand(truth.shape, generator=g) < 0.2] = IGNORE
    return Batch(pixels, truth.to(torch.uint8))


def all_streams(spec: MethodSpec) -> StepBatch:
    return StepBatch(
        images(1, 70, 90) if spec.source else None,
        images(2, 64, 80) if spec.labelled else None,
        images(3, 64, 80, labels=False) if spec.global_ else None,
    )


def module(
    spec: MethodSpec, heads: str = "single", gan: str = "vanilla", **loss_values: Any
) -> Adaptation:
    loss = LossConfig(**{**vars(WEIGHTS), "gan": gan, **loss_values})
    config = Config(
        model=ModelConfig(backbone="tiny", width=16, num_classes=CLASSES, heads=heads),  # type: ignore[arg-type]
        discriminator=DiscriminatorConfig(width=4, hidden=16),
        loss=loss,
    )
    return build(config, spec).double().train()


def upsample(scores: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=True)


def small(labels: Tensor, features: Tensor, aligned: bool) -> Tensor:
    size = tuple(features.shape[2:])
    if aligned:  # label pixels at the places that an upsampling with aligned corners gives F's
        rows, columns = (
            (torch.linspace(0, n - 1, m, dtype=torch.float64) + 0.5).floor().long()
            for n, m in zip(labels.shape[1:], size, strict=True)
        )
        return labels[:, rows][:, :, columns].long()
    return F.interpolate(labels[:, None].double(), size=size, mode="nearest")[:, 0].long()


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(upsample(scores, labels.shape[1:]), labels.long(), ignore_index=IGNORE)


def seg(output: Output, labels: Tensor) -> Tensor:
    main, *aux = (cross_entropy(s, labels) for s in output.levels)
    return main + WEIGHTS.aux_seg * sum(aux)


def domain(logits: Tensor, z: int, gan: str) -> Tensor:
    wanted = torch.full_like(logits, z)
    if gan == "ls":
        return ((logits - wanted) ** 2).mean()
    return F.binary_cross_entropy_with_logits(logits, wanted)


def semantic(adaptation: Adaptation, features: Tensor, labels: Tensor, z: int) -> Tensor:
    """−log of the probability of (class, z): over class means (FCSA), or over pixels (CSA)."""
    d_s = adaptation.semantic_discriminator
    y = small(labels, features, adaptation.weights.label_grid == "aligned")
    assert d_s is not None
    if type(d_s).__name__ == "FeatureDiscriminator":
        losses = []
        for b, k in product(range(y.shape[0]), range(CLASSES)):
            mask = y[b] == k
            if mask.any():
                mean = features[b][:, mask].mean(dim=1)
                losses.append(-d_s(mean[None]).log_softmax(1)[0, k + CLASSES * z])
        return torch.stack(losses).mean() if losses else features.sum() * 0
    valid = y != IGNORE
    if not valid.any():
        return features.sum() * 0
    target = torch.where(valid, y + CLASSES * z, torch.full_like(y, IGNORE))
    return F.cross_entropy(d_s(features), target, ignore_index=IGNORE)


def alternating(a: Adaptation, streams: StepBatch, gan: str) -> None:
    """AdaptSegNet's order: G with the discriminators frozen, then the discriminators alone."""
    w = WEIGHTS
    discriminators = [*a.global_discriminators]
    if a.semantic_discriminator is not None:
        discriminators.append(a.semantic_discriminator)
    for d in discriminators:
        d.requires_grad_(False)
    outputs: dict[str, Output] = {}
    if streams.source is not None:
        pixels, labels = streams.source.images, streams.source.labels
        assert labels is not None
        output = outputs["source"] = a.generator(pixels)
        loss = w.seg * seg(output, labels)
        for share, scores, d in zip((1, w.aux_gadv), output.levels, a.global_discriminators):  # noqa: B905
            P = upsample(scores, labels.shape[1:]).softmax(1)
            if a.weights.push != "target":
                loss = loss + w.gadv * share * domain(d(P), 1, gan)
        if a.semantic_discriminator is not None:
            assert w.sadv is not None
            loss = loss + w.sadv * semantic(a, output.features, labels, 1)
        loss.backward()
    if streams.labelled is not None:
        pixels, labels = streams.labelled.images, streams.labelled.labels
        assert labels is not None
        output = outputs["labelled"] = a.generator(pixels)
        (w.seg * seg(output, labels)).backward()
    if streams.unlabelled is not None:
        pixels = streams.unlabelled.images
        output = outputs["unlabelled"] = a.generator(pixels)
        if a.weights.push != "source":
            for share, scores, d in zip((1, w.aux_gadv), output.levels, a.global_discriminators):  # noqa: B905
                P = upsample(scores, pixels.shape[2:]).softmax(1)
                (w.gadv * share * domain(d(P), 0, gan)).backward(retain_graph=True)

    for d in discriminators:
        d.requires_grad_(True)
    for i, d in enumerate(a.global_discriminators):
        for z, name in enumerate(("source", "unlabelled")):
            size = getattr(streams, name).images.shape[2:]
            P = upsample(outputs[name].levels[i].detach(), size).softmax(1)
            (w.gd * domain(d(P), z, gan)).backward()
    if a.semantic_discriminator is not None:
        for z, name in enumerate(("source", "labelled")):
            features = outputs[name].features.detach()
            (w.sd * semantic(a, features, getattr(streams, name).labels, z)).backward()


def gradients(a: Adaptation) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in a.named_parameters() if p.grad is not None}
    a.zero_grad(set_to_none=True)
    return found


def assert_same_gradients(a: Adaptation, streams: StepBatch, gan: str = "vanilla") -> None:
    total = objective(a(streams), a.weights)
    assert total.dtype == torch.float64
    total.backward()
    ours = gradients(a)
    alternating(a, streams, gan)
    theirs = gradients(a)
    assert ours.keys() == theirs.keys()
    assert all(p in ours for p, v in a.named_parameters() if v.requires_grad and "aux" not in p)
    for name, expected in theirs.items():
        scale = expected.abs().max().clamp(min=1e-12)
        assert (ours[name] - expected).abs().max() <= 1e-9 * scale, name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("heads", ["single", "multi"])
def test_gradients_equal_the_alternating_procedure(method: str, heads: str) -> None:
    spec = method_spec(method, labelled=4)  # type: ignore[arg-type]
    assert_same_gradients(module(spec, heads), all_streams(spec))


def test_gradients_with_least_squares() -> None:
    spec = method_spec("ga", labelled=4)
    assert_same_gradients(module(spec, gan="ls"), all_streams(spec), gan="ls")


@pytest.mark.parametrize("push", ["target", "both"])
@pytest.mark.parametrize("heads", ["single", "multi"])
def test_gradients_where_the_target_is_pushed(push: str, heads: str) -> None:
    spec = method_spec("ga+csa", labelled=4)
    a, streams = module(spec, heads, push=push), all_streams(spec)
    assert_same_gradients(a, streams)
    terms = a(streams)
    assert (terms.gadv is None) == (push == "target")
    assert terms.gadv_target is not None
    terms.gadv_target.backward()
    assert all(name.startswith("generator.") for name in gradients(a))


@pytest.mark.parametrize("method", ["ga+fcsa", "ga+csa"])
def test_gradients_with_labels_on_the_classifiers_grid(method: str) -> None:
    spec = method_spec(method, labelled=4)  # type: ignore[arg-type]
    assert_same_gradients(module(spec, label_grid="aligned"), all_streams(spec))


@pytest.mark.parametrize("method", ["ga+fcsa", "ga+csa"])
def test_a_labelled_batch_without_any_label_adds_nothing(method: str) -> None:
    """All labels ignored: no NaN, and the gradients are those of the other terms."""
    spec = method_spec(method, labelled=4)  # type: ignore[arg-type]
    a, streams = module(spec), all_streams(spec)
    assert streams.labelled is not None
    pixels, labels = streams.labelled.images, streams.labelled.labels
    assert labels is not None
    empty = streams._replace(labelled=Batch(pixels, torch.full_like(labels, IGNORE)))
    terms = a(empty)
    assert terms.seg_target == 0
    assert terms.sd_target == 0
    objective(terms, a.weights).backward()
    with_empty = gradients(a)
    objective(a(streams._replace(labelled=None)), a.weights).backward()
    for name, expected in gradients(a).items():
        torch.testing.assert_close(with_empty[name], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_streams_taken_one_by_one_give_the_same_gradients(method: str) -> None:
    """The sum is separable by stream, which a backward for each stream relies on."""
    spec = method_spec(method, labelled=4)  # type: ignore[arg-type]
    a, streams = module(spec), all_streams(spec)
    objective(a(streams), a.weights).backward()
    together = gradients(a)
    for name, stream in streams._asdict().items():
        if stream is not None:
            objective(a(StepBatch(**{name: stream})), a.weights).backward()
    for name, grad in gradients(a).items():
        torch.testing.assert_close(grad, together[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "labelled", "source", "target", "global_", "semantic"),
    [
        ("oracle", 1, False, True, False, ""),
        ("source_only", 1, True, False, False, ""),
        ("joint", 1, True, True, False, ""),
        ("joint", 0, True, False, False, ""),
        ("ga", 1, True, True, True, ""),
        ("ga", 0, True, False, True, ""),
        ("ga+fcsa", 1, True, True, True, "fcsa"),
        ("ga+fcsa", 0, True, False, True, ""),
        ("ga+csa", 1, True, True, True, "csa"),
        ("ga+csa", 0, True, False, True, ""),
    ],
)
def test_what_each_method_trains(
    method: str, labelled: int, source: bool, target: bool, global_: bool, semantic: str
) -> None:
    spec = method_spec(method, labelled)  # type: ignore[arg-type]
    assert spec == MethodSpec(source, target, global_, semantic)
    assert spec.start() == MethodSpec(source, not source, global_=False, semantic="")
    assert spec.sees_target is (target or global_)
    with pytest.raises(FrozenInstanceError):
        spec.source = False  # type: ignore[misc]


@pytest.mark.parametrize("push", ["source", "target"])
@pytest.mark.parametrize("stream", ["source", "unlabelled"])
def test_every_head_needs_its_discriminator(stream: str, push: str) -> None:
    spec = method_spec("ga", labelled=0)
    a = module(spec, "multi", push=push)
    a.global_discriminators = a.global_discriminators[:1]
    with pytest.raises(ValueError, match="argument"):
        a(StepBatch(**{stream: getattr(all_streams(spec), stream)}))


def test_without_labelled_images_the_semantic_module_is_off() -> None:
    spec = method_spec("ga+csa", labelled=0)
    assert spec == MethodSpec(source=True, labelled=False, global_=True, semantic="")
    assert_same_gradients(module(spec), all_streams(spec))


def test_the_start_trains_segmentation_alone() -> None:
    spec = method_spec("ga+csa", labelled=4)
    a = module(spec)
    objective(a(StepBatch(source=images(1, 64, 64)), adapt=False), a.weights).backward()
    assert all(name.startswith("generator.") for name in gradients(a))
    assert spec.start() == MethodSpec(source=True, labelled=False, global_=False, semantic="")
    assert method_spec("oracle", 4).start().labelled


def test_adversarial_terms_reach_the_generator_alone() -> None:
    spec = method_spec("ga+csa", labelled=4)
    a = module(spec)
    terms = a(all_streams(spec))
    assert terms.gadv is not None
    assert terms.sadv is not None
    (terms.gadv + terms.sadv).backward()
    assert all(name.startswith("generator.") for name in gradients(a))
    terms = a(all_streams(spec))
    discriminator = (terms.gd_source, terms.gd_target, terms.sd_source, terms.sd_target)
    torch.stack([t for t in discriminator if t is not None]).sum().backward()
    assert not any(name.startswith("generator.") for name in gradients(a))


def test_self_training_sees_the_target() -> None:
    assert method_spec("source_only", labelled=0, mix=True).sees_target
    assert not method_spec("source_only", labelled=0).sees_target


@pytest.mark.parametrize("heads", ["single", "multi"])
def test_the_mixed_term_weighs_each_pixel(heads: str) -> None:
    """1 where something was pasted, else the image's confidence; the mean over all pixels."""
    a = module(method_spec("ga", labelled=0, mix=True), heads)
    batch = images(4, 64, 80)
    assert batch.labels is not None
    pasted = torch.rand(batch.labels.shape, generator=torch.Generator().manual_seed(5)) < 0.3
    confidence = torch.tensor([0.25, 0.75], dtype=torch.float64)
    mixed = batch._replace(pasted=pasted, confidence=confidence)
    terms = a(StepBatch(mixed=mixed))
    weights = torch.where(pasted, 1.0, confidence[:, None, None])
    values = []
    for scores in a.generator(batch.images).levels:
        up = upsample(scores, pasted.shape[1:])
        nll = F.cross_entropy(up, batch.labels.long(), ignore_index=IGNORE, reduction="none")
        values.append((nll * weights).mean())
    wanted = values[0] if heads == "single" else values[0] + WEIGHTS.aux_seg * values[1]
    torch.testing.assert_close(terms.mix, wanted)
    assert [name for name, term in terms._asdict().items() if term is not None] == ["mix"]
    assert a(StepBatch(images(1, 64, 64), mixed=mixed), adapt=False).mix is None


def fed(a: Adaptation, *streams: str) -> tuple[float, float]:
    """The running mean of the first norm (all streams, the target's) that were zero, after a feed.

    What the n-th stream sees has the mean 10ⁿ.
    """
    norm = next(iter(running_norms(a.generator).values()))
    assert isinstance(norm, nn.BatchNorm2d)
    for bank in (norm.running_mean, of_target(a).vectors(norm)[0]):
        assert isinstance(bank, Tensor)
        bank.zero_()
    one = torch.ones_like(norm.running_var)  # type: ignore[arg-type]
    norm.momentum = 1e-3
    a.feed([BatchStatistics(norm, 10.0**n * one, one, name) for n, name in enumerate(streams)])
    every, target = norm.running_mean, of_target(a).vectors(norm)[0]
    assert every is not None
    return round(1e3 * every[0].item(), 0), round(1e3 * target[0].item(), 0)


def of_target(a: Adaptation) -> TargetStatistics:
    assert a.target_statistics is not None
    return a.target_statistics


def test_the_streams_of_the_target_feed_its_statistics() -> None:
    a = module(method_spec("ga+csa", labelled=4))
    assert fed(a, "source", "labelled", "unlabelled") == (111, 110)
    assert fed(a, "labelled", "source") == (11, 1)
    assert fed(a, "source", "unlabelled") == (11, 10)
    assert fed(a, "source", "mixed") == (11, 11)  # no stream of the target: all of them
    assert fed(a, "source") == (1, 1)
    a.target_streams = ("mixed",)
    assert fed(a, "source", "labelled", "mixed") == (111, 100)


def test_the_statistics_of_the_target_start_from_those_of_all_streams() -> None:
    a = module(method_spec("ga", labelled=0))
    norm = next(iter(running_norms(a.generator).values()))
    a.average_target_statistics = TargetStatistics(a.generator)
    assert norm.running_mean is not None
    norm.running_mean.fill_(3.0)
    a.restart_target_statistics()
    for statistics in (a.target_statistics, a.average_target_statistics):
        assert statistics is not None
        assert statistics.vectors(norm)[0].eq(3.0).all()
    a.target_statistics = a.average_target_statistics = None
    a.restart_target_statistics()  # frozen networks have none


def test_a_frozen_network_has_no_statistics_of_the_target() -> None:
    config = Config(model=ModelConfig(backbone="resnet18", num_classes=CLASSES, norm="frozen"))
    assert build(config, method_spec("joint", 4)).target_statistics is None
