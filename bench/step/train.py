"""`fastass bench train`: training end to end, data included, beside the AdaptSegNet baseline.

Both train on the same files: the engine with its own loader, the reference path with the
AdaptSegNet baseline's. They step in turns, `steps` at a time, so that each one's loader also
works while the other steps; the turns are long enough for what was loaded ahead not to count.
"""

from collections.abc import Sequence

from fastass.bench.step.candidate import engine, reference
from fastass.bench.step.worker import CandidateConfig
from fastass.config.schema import Config


def candidates(config: Config) -> Sequence[CandidateConfig]:
    """The AdaptSegNet baseline with its norm; the engine with the configuration given."""
    return [
        reference("AdaptSegNet baseline", config, "batch", data="own"),
        engine("fastass", config, data="own", count_flops=True),
    ]
