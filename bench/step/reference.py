"""The reference path: a training step of the AdaptSegNet baseline, plain eager fp32 NCHW.

AdaptSegNet's training script is the public research code that the paper's method builds on. It
trains at batch 1 in fp32. This path is written from the paper's equations and that script's
procedure:

1. the discriminators' `requires_grad` off; source and labelled target images forward and backward
   one after the other: L_seg on scores upsampled to full size, L_gadv and L_sadv;
2. `requires_grad` on; each discriminator runs a second time, on detached inputs, once a domain;
3. SGD and Adam as plain loops over the tensors.

It is what `fastass bench step` and `fastass bench train` compare with, and computes what
`fastass.training.step.TrainStep.step` does: a test compares losses and weights of both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.bench.step.reference_networks import (
    Generator,
    GlobalDiscriminator,
    SemanticDiscriminator,
)
from fastass.config.schema import Config
from fastass.kernels.nearest import nearest_labels
from fastass.method.adaptation import Adaptation
from fastass.method.terms import LossTerms
from fastass.models.discriminators import FeatureDiscriminator
from fastass.pipelines.loaders.batch import StepBatch
from fastass.training.optimizers.build import decay

IGNORE, SOURCE, TARGET = 255, 0, 1


class ReferencePath:
    """Networks with the weights of an Adaptation, and their training step, in NCHW."""

    def __init__(self, like: Adaptation, config: Config, device: torch.device) -> None:
        """config: with λ_sadv resolved. The dtype is that of `like`."""
        self.config, self.device = config, device
        classes, size = config.model.num_classes, config.discriminator
        self.networks = nn.ModuleDict({"generator": Generator(config.model)})
        d_g = [GlobalDiscriminator(classes, size.width) for _ in like.global_discriminators]
        self.networks["global_discriminators"] = nn.ModuleList(d_g)
        d_s = like.semantic_discriminator
        self.per_class = isinstance(d_s, FeatureDiscriminator)
        if d_s is not None:
            features = like.generator.features
            self.networks["semantic_discriminator"] = SemanticDiscriminator(
                features, classes, size.hidden
            )
        missing, unexpected = self.networks.load_state_dict(like.state_dict(), strict=False)
        assert all(name.startswith("target_statistics.") for name in unexpected), unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing), missing
        dtype = next(like.parameters()).dtype
        self.networks.to(device, dtype)
        self.networks.train()
        self.optimizers = self._optimizers()

    @property
    def generator(self) -> Generator:
        return self.networks["generator"]  # type: ignore[return-value]

    @property
    def global_discriminators(self) -> list[nn.Module]:
        return list(self.networks["global_discriminators"].children())

    @property
    def semantic_discriminator(self) -> nn.Module | None:
        return self.networks["semantic_discriminator"] if self._semantic else None

    @property
    def _semantic(self) -> bool:
        return "semantic_discriminator" in self.networks

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        o = self.config.optim
        heads = [self.generator.classifier, self.generator.aux_classifier]
        head = [p for h in heads if h is not None for p in h.parameters()]
        body = [p for p in self.generator.backbone.parameters() if p.requires_grad]
        sgd = torch.optim.SGD(
            [{"params": body, "base_lr": o.lr}, {"params": head, "base_lr": o.lr * o.head_lr}],
            lr=o.lr,
            momentum=o.momentum,
            nesterov=o.nesterov,
            weight_decay=o.weight_decay,
            foreach=False,
        )
        discriminators = [*self.global_discriminators, self.semantic_discriminator]
        return [sgd] + [
            torch.optim.Adam(
                [{"params": list(d.parameters()), "base_lr": o.d_lr}],
                lr=o.d_lr,
                betas=o.d_betas,
                foreach=False,
            )
            for d in discriminators
            if d is not None
        ]

    def step(self, batch: StepBatch, step: int = 0) -> LossTerms:
        """One optimizer step on one batch; → its terms, detached. step: for the decay of rates."""
        c = self.config
        factor = decay(step, c.optim, start_steps=c.start_steps, steps=c.steps)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
        terms = self.backward(batch)
        self.update()
        return terms

    def update(self) -> None:
        """The optimizers' part of a step."""
        for optimizer in self.optimizers:
            optimizer.step()

    def backward(self, batch: StepBatch) -> LossTerms:
        """All forwards and backwards of a step; gradients add up in `.grad`."""
        λ = self.config.loss
        terms: dict[str, Tensor] = {}
        self._discriminators_require_grad(False)
        assert batch.source is not None
        images, labels = batch.source.images, batch.source.labels
        assert labels is not None
        features_s, levels = self.generator(images)
        scores_s = [self._upsample(s, labels.shape[1:]) for s in levels]
        terms["seg_source"] = self._seg(scores_s, labels)
        loss = λ.seg * terms["seg_source"]
        if self.global_discriminators and λ.push != "target":
            terms["gadv"] = self._global(scores_s, TARGET, λ.aux_gadv)
            loss = loss + λ.gadv * terms["gadv"]
        if self._semantic:
            terms["sadv"] = self._semantic_loss(features_s, labels, TARGET)
            loss = loss + (λ.sadv or 0.0) * terms["sadv"]
        loss.backward()
        features_s, scores_s = features_s.detach(), [s.detach() for s in scores_s]
        features_tl = labels_tl = None
        if batch.labelled is not None:
            images, labels_tl = batch.labelled.images, batch.labelled.labels
            assert labels_tl is not None
            features_tl, levels = self.generator(images)
            scores = [self._upsample(s, labels_tl.shape[1:]) for s in levels]
            terms["seg_target"] = self._seg(scores, labels_tl)
            (λ.seg * terms["seg_target"]).backward()
            features_tl = features_tl.detach()
        scores_tu = None
        if batch.unlabelled is not None:
            images = batch.unlabelled.images
            with torch.set_grad_enabled(λ.push != "source"):
                scores_tu = [self._upsample(s, images.shape[2:]) for s in self.generator(images)[1]]
            if λ.push != "source":
                terms["gadv_target"] = self._global(scores_tu, SOURCE, λ.aux_gadv)
                (λ.gadv * terms["gadv_target"]).backward()
                scores_tu = [s.detach() for s in scores_tu]

        self._discriminators_require_grad(True)
        if scores_tu is not None:
            for name, maps, domain in (
                ("gd_source", scores_s, SOURCE),
                ("gd_target", scores_tu, TARGET),
            ):
                terms[name] = self._global(maps, domain, 1.0)
                (λ.gd * terms[name]).backward()
        if self._semantic:
            assert features_tl is not None
            assert labels_tl is not None
            terms["sd_source"] = self._semantic_loss(features_s, labels, SOURCE)
            (λ.sd * terms["sd_source"]).backward()
            terms["sd_target"] = self._semantic_loss(features_tl, labels_tl, TARGET)
            (λ.sd * terms["sd_target"]).backward()
        return LossTerms(**{name: term.detach() for name, term in terms.items()})

    def _discriminators_require_grad(self, on: bool) -> None:
        for d in (*self.global_discriminators, self.semantic_discriminator):
            if d is not None:
                for parameter in d.parameters():
                    parameter.requires_grad = on

    def _upsample(self, scores: Tensor, size: torch.Size) -> Tensor:
        align = self.config.model.align_corners
        return F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=align)

    def _seg(self, scores: list[Tensor], labels: Tensor) -> Tensor:
        """Eq. 1 on full-resolution score maps."""
        losses = [F.cross_entropy(s, labels.long(), ignore_index=IGNORE) for s in scores]
        return losses[0] + sum(self.config.loss.aux_seg * one for one in losses[1:])

    def _global(self, scores: list[Tensor], domain: int, aux: float) -> Tensor:
        """Eq. 2 and 3."""
        losses = []
        for s, d_g in zip(scores, self.global_discriminators, strict=True):
            logits = d_g(F.softmax(s, dim=1))
            wanted = torch.full_like(logits, domain)
            if self.config.loss.gan == "ls":
                losses.append(F.mse_loss(logits, wanted))
            else:
                losses.append(F.binary_cross_entropy_with_logits(logits, wanted))
        return losses[0] + sum(aux * one for one in losses[1:])

    def _semantic_loss(self, features: Tensor, labels: Tensor, domain: int) -> Tensor:
        """Eq. 4–6 class by class, or Eq. 7–8."""
        d_s = self.semantic_discriminator
        assert d_s is not None
        classes = self.config.model.num_classes
        size = (features.shape[2], features.shape[3])
        small = nearest_labels(labels, size, self.config.loss.label_grid == "aligned").long()
        if not self.per_class:
            wanted = torch.where(small == IGNORE, IGNORE, small + classes * domain)
            return F.cross_entropy(d_s(features), wanted, ignore_index=IGNORE)
        losses = []
        for image in range(small.shape[0]):
            for k in range(classes):
                mask = small[image] == k
                if mask.any():
                    mean = (features[image] * mask).sum(dim=(1, 2)) / mask.sum()
                    wanted = torch.tensor([k + classes * domain], device=features.device)
                    losses.append(F.cross_entropy(d_s(mean[None]), wanted))
        return torch.stack(losses).mean()
