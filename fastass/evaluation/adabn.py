"""AdaBN: estimate the running statistics of batch norm again, on one domain.

Training normalises each stream by its own batch and averages the statistics of all streams. The
network is therefore evaluated on the target with statistics of source and target mixed. To estimate
them on target images alone takes no labels and no training.
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
    """Replace running means and variances by their average over `batches`; → number of batches.

    The generator's weights and mode do not change. Raises UserError for a generator without running
    statistics: with frozen norms (their values are constants), and VGG-16.
    """
    norms = [m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        raise UserError("this network has no running statistics: its norms are frozen or absent")
    training, momenta = generator.training, [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # makes torch take the plain average
    generator.train()
    count = 0
    try:
        for batch in batches:
            with runtime.autocast():
                generator(batch.images.to(runtime.device))
            count += 1
    finally:
        generator.train(training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return count
