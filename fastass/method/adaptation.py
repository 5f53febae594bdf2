"""The objective, Eq. 9–11, as one differentiable scalar.

    total = λ_seg (L_seg(I_s) + L_seg(I_tl)) + λ_gadv L_gadv(I_s) + λ_sadv L_sadv(I_s)   → G
          + λ_gd (L_gd(F_s) + L_gd(F_tu)) + λ_sd (L_sd(F_s) + L_sd(F_tl))                → D_g, D_s

With `push` L_gadv(I_tu) takes the place of L_gadv(I_s), as in AdaptSegNet, or is added to it.

One `backward()` of it gives the gradients of the alternating procedure. L_gadv and L_sadv go
through `frozen(D)`, so they reach G alone. The discriminator losses see detached P, F and V, so
they reach the discriminators alone. With self-training (`fastass.self_training`) the sum has one
term more, λ_mix L_mix(I_m), which reaches G. The terms of the streams share no activations, so the
sum may also be taken stream by stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastass import kernels
from fastass.config.schema import LossConfig, Method
from fastass.kernels.convolution.running_statistics import BatchStatistics, stream
from fastass.method import losses
from fastass.method.losses import SOURCE, TARGET
from fastass.method.terms import TERMS, LossTerms, sum_terms
from fastass.models.deeplab import DeepLab, Output
from fastass.models.discriminators import (
    FeatureDiscriminator,
    GlobalDiscriminator,
    PixelDiscriminator,
)
from fastass.models.domain_statistics import TargetStatistics, feed, running_norms
from fastass.pipelines.loaders.batch import Batch, StepBatch

TARGET_STREAMS = ("labelled", "unlabelled")  # fields of StepBatch; mixed images are of both domains


@dataclass(frozen=True)
class MethodSpec:
    """Which modules a method uses."""

    source: bool  # L_seg(I_s)
    labelled: bool  # L_seg(I_tl)
    global_: bool  # GA: D_g, L_gadv, L_gd
    semantic: str  # SA: "", "fcsa" or "csa": D_s, L_sadv, L_sd
    mix: bool = False  # self-training: a teacher, L_mix

    @property
    def sees_target(self) -> bool:
        """Whether it forwards images of the target."""
        return self.labelled or self.global_ or self.mix

    def start(self) -> "MethodSpec":
        """The supervised start before the method: L_seg alone, of the source if it is used."""
        return MethodSpec(self.source, not self.source, global_=False, semantic="")


def method_spec(method: Method, labelled: int, mix: bool = False) -> MethodSpec:
    """The modules of a method with `labelled` labelled target images.

    mix: self-training on top of it.

    Without labelled images there is no L_seg(I_tl), and the semantic module is off.
    """
    has_labels = labelled > 0
    if method == "oracle":
        return MethodSpec(source=False, labelled=True, global_=False, semantic="")
    if method == "source_only":
        return MethodSpec(source=True, labelled=False, global_=False, semantic="", mix=mix)
    if method == "joint":
        return MethodSpec(source=True, labelled=has_labels, global_=False, semantic="", mix=mix)
    semantic = method.partition("+")[2] if has_labels else ""
    return MethodSpec(source=True, labelled=has_labels, global_=True, semantic=semantic, mix=mix)


def objective(terms: LossTerms, weights: LossConfig) -> Tensor:
    """Eq. 9 plus Eq. 10: the scalar whose one backward serves G, D_g and D_s."""
    λ = {name: getattr(weights, term.weight) or 0.0 for name, term in TERMS.items()}
    weighted = [λ[name] * t for name, t in terms._asdict().items() if t is not None]
    return torch.stack([t.float() if t.dtype != torch.float64 else t for t in weighted]).sum()


class Adaptation(nn.Module):
    """G, D_g and D_s as one module, whose forward returns the terms of the streams in a batch."""

    def __init__(
        self,
        generator: DeepLab,
        global_discriminators: Sequence[GlobalDiscriminator],
        semantic_discriminator: FeatureDiscriminator | PixelDiscriminator | None,
        weights: LossConfig,
    ) -> None:
        """global_discriminators: none, or one per head (main, auxiliary)."""
        super().__init__()
        self.generator = generator
        self.global_discriminators = nn.ModuleList(global_discriminators)
        self.semantic_discriminator = semantic_discriminator
        self.average: DeepLab | None = None  # of the generator's weights: see fastass.models.ema
        self.teacher: DeepLab | None = None  # see fastass.self_training
        # Of the target's streams; the generator's own running statistics are those of all streams.
        self.target_statistics: TargetStatistics | None = None
        self.average_target_statistics: TargetStatistics | None = None
        if running_norms(generator):
            self.target_statistics = TargetStatistics(generator)
        self.target_streams: tuple[str, ...] = TARGET_STREAMS
        self.weights = weights
        self.align_corners = generator.config.align_corners
        self.aligned_labels = weights.label_grid == "aligned"

    def forward(self, batch: StepBatch, *, adapt: bool = True) -> LossTerms:
        """The terms of the streams in `batch`; without `adapt`, L_seg alone.

        Unlabelled images are forwarded without gradients, unless `push` is `target` or `both`.
        """
        parts = []
        if batch.source is not None:
            parts.append(self._source(batch.source, adapt))
        if batch.labelled is not None:
            parts.append(self._labelled(batch.labelled, adapt))
        if batch.unlabelled is not None and adapt:
            parts.append(self._unlabelled(batch.unlabelled))
        if batch.mixed is not None and adapt:
            parts.append(self._mixed(batch.mixed))
        return sum_terms(parts)

    def feed(self, seen: Sequence[BatchStatistics]) -> None:
        """Add what the forwards of a step saw to the running statistics, in this order.

        Every stream feeds the generator's own. The target's are fed by the streams that are
        `target_streams`; in a step without one, by all of them, so both stay the same.
        """
        some = any(s.stream in self.target_streams for s in seen)
        feed(
            seen,
            self.target_statistics,
            lambda stream: not some or stream in self.target_streams,
        )

    def restart_target_statistics(self) -> None:
        """Make the target's running statistics equal to the generator's own, and the averages'."""
        for statistics in (self.target_statistics, self.average_target_statistics):
            if statistics is not None:
                statistics.copy_from_network()

    def _generate(self, images: Tensor, name: str) -> Output:
        """G's output for the stream of this name."""
        with stream(name):
            output: Output = self.generator(images)
        return output

    def _source(self, batch: Batch, adapt: bool) -> LossTerms:
        """L_seg, L_gadv, L_sadv of G and the source halves of L_gd and L_sd."""
        images, labels = batch.images, batch.labels
        assert labels is not None
        output = self._generate(images, "source")
        gadv = gd = sadv = sd = None
        if adapt and self.semantic_discriminator is not None:
            sadv, sd = self._semantic(output.features, labels, SOURCE)
        # Last, so that its backward is the first: it ends with the scores' gradient, which is
        # small, and frees D_g's maps before anything as large as F's gradient is made.
        if adapt and self.global_discriminators:
            seg, gadv, gd = self._source_global(output, labels)
        else:
            seg = self._segmentation(output, labels)
        return LossTerms(seg_source=seg, gadv=gadv, sadv=sadv, gd_source=gd, sd_source=sd)

    def _source_global(
        self, output: Output, labels: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """(L_seg, L_gadv, the source half of L_gd): the three losses of P share one upsampling.

        L_gadv is None where the target alone is pushed.
        """
        seg, gadv, gd = [], [], []
        for scores, d_g in zip(output.levels, self.global_discriminators, strict=True):
            loss, P = losses.segmentation_loss_and_probabilities(
                scores, labels, align_corners=self.align_corners
            )
            seg.append(loss)
            assert isinstance(d_g, GlobalDiscriminator)
            if self.weights.push == "target":
                own = d_g(P.detach())
            else:
                to_generator, own = d_g.twice(P)  # of frozen(D_g) on P, of D_g on detached P
                gadv.append(losses.domain_loss(to_generator, TARGET, self.weights.gan))
            gd.append(losses.domain_loss(own, SOURCE, self.weights.gan))
        return (
            self._levels(seg, self.weights.aux_seg),
            self._levels(gadv, self.weights.aux_gadv) if gadv else None,
            self._levels(gd, 1.0),
        )

    def _labelled(self, batch: Batch, adapt: bool) -> LossTerms:
        """L_seg of the labelled target images and their half of L_sd."""
        images, labels = batch.images, batch.labels
        assert labels is not None
        output = self._generate(images, "labelled")
        seg, sd = self._segmentation(output, labels), None
        if adapt and self.semantic_discriminator is not None:
            _, sd = self._semantic(output.features.detach(), labels, TARGET)
        return LossTerms(seg_target=seg, sd_target=sd)

    def _unlabelled(self, batch: Batch) -> LossTerms:
        """The target half of L_gd. G only supplies P here, so it runs without gradients."""
        if self.weights.push != "source":
            return self._pushed(batch)
        images = batch.images
        size = (images.shape[2], images.shape[3])
        with torch.no_grad():
            maps = [
                kernels.upsample_softmax(scores, size, align_corners=self.align_corners)
                for scores in self._generate(images, "unlabelled").levels
            ]
        gd = [
            losses.domain_loss(d_g(P), TARGET, self.weights.gan)
            for P, d_g in zip(maps, self.global_discriminators, strict=True)
        ]
        return LossTerms(gd_target=self._levels(gd, 1.0))

    def _mixed(self, batch: Batch) -> LossTerms:
        """L_mix. A pasted pixel weighs 1, any other as much as the teacher is sure of its image."""
        labels, pasted, confidence = batch.labels, batch.pasted, batch.confidence
        assert labels is not None
        assert pasted is not None
        assert confidence is not None
        weights = kernels.PixelWeights(pasted, confidence)
        values = [
            losses.mix_loss(scores, labels, weights, align_corners=self.align_corners)
            for scores in self._generate(batch.images, "mixed").levels
        ]
        return LossTerms(mix=self._levels(values, self.weights.aux_seg))

    def _pushed(self, batch: Batch) -> LossTerms:
        """L_gadv of the unlabelled images, judged as source, and the target half of L_gd."""
        size = (batch.images.shape[2], batch.images.shape[3])
        levels = self._generate(batch.images, "unlabelled").levels
        gadv, gd = [], []
        for scores, d_g in zip(levels, self.global_discriminators, strict=True):
            P = kernels.upsample_softmax(scores, size, align_corners=self.align_corners)
            assert isinstance(d_g, GlobalDiscriminator)
            to_generator, own = d_g.twice(P)
            gadv.append(losses.domain_loss(to_generator, SOURCE, self.weights.gan))
            gd.append(losses.domain_loss(own, TARGET, self.weights.gan))
        return LossTerms(
            gadv_target=self._levels(gadv, self.weights.aux_gadv),
            gd_target=self._levels(gd, 1.0),
        )

    def _segmentation(self, output: Output, labels: Tensor) -> Tensor:
        values = [
            losses.segmentation_loss(scores, labels, align_corners=self.align_corners)
            for scores in output.levels
        ]
        return self._levels(values, self.weights.aux_seg)

    def _semantic(
        self, features: Tensor, labels: Tensor, domain: int
    ) -> tuple[Tensor | None, Tensor]:
        """(L_sadv or None, this domain's half of L_sd): Eq. 5–6 for FCSA, Eq. 7–8 for CSA."""
        d_s = self.semantic_discriminator
        assert d_s is not None
        adversarial = domain == SOURCE
        if isinstance(d_s, PixelDiscriminator):
            sd, sadv = kernels.pixel_discriminator_loss(
                features,
                labels,
                d_s.weight1,
                d_s.bias1,
                d_s.weight2,
                d_s.bias2,
                domain=domain,
                adversarial=adversarial,
                aligned=self.aligned_labels,
            )
            return (sadv if adversarial else None), sd
        C = self.generator.config.num_classes
        V, counts = kernels.class_mean(features, labels, C, aligned=self.aligned_labels)
        sd = losses.class_mean_loss(d_s(V.detach()), counts, domain)
        if not adversarial:
            return None, sd
        return losses.class_mean_loss(d_s(V, frozen=True), counts, TARGET), sd

    @staticmethod
    def _levels(values: list[Tensor], aux_weight: float) -> Tensor:
        """The main head's loss plus `aux_weight` times the auxiliary head's, where there is one."""
        return values[0] if len(values) == 1 else values[0] + aux_weight * values[1]
