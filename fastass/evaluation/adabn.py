"""Running statistics of the norms, taken anew from one domain.

Training normalises every stream by its own batch and averages the statistics of all of them, so a
network is evaluated on the target with a mixture of source and target. Statistics of target images
alone need no labels and no training.
"""

from collections.abc import Iterable

import torch
from torch import nn

from fastass.errors import UserError
from fastass.models.deeplab import DeepLab
from fastass.pipelines.loaders.evaluation import EvalBatch
from fastass.runtime.device import Runtime


@torch.no_grad()
def reestimate(generator: DeepLab, batches: Iterable[EvalBatch], runtime: Runtime) -> int:
    """Replace running means and variances by the average over `batches`; → how many batches.

    The generator's weights and its mode stay. UserError for a generator without such statistics:
    frozen norms (their values are constants) and VGG-16.
    """
    norms = [m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        raise UserError("this network has no running statistics: its norms are frozen or absent")
    training, momenta = generator.training, [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain average
    generator.train()
    done = 0
    try:
        for batch in batches:
            with runtime.autocast():
                generator(batch.images.to(runtime.device))
            done += 1
    finally:
        generator.train(training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return done
