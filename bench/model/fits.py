"""The largest batch that the model expects to fit into a GPU, for runs that did not fit."""

from fastass.bench.model import roofline, trace
from fastass.config.schema import Config
from fastass.errors import UserError


def check(config: Config, kept: trace.Trace) -> None:
    """UserError where the trace is of another network or of other sizes than the preset's."""
    model, data = config.model, config.data
    pairs = {
        "backbone": (model.backbone, kept.backbone),
        "heads": (model.heads, "single"),
        "classes": (model.num_classes, kept.classes),
        "source size": (tuple(data.source_size), kept.source_size),
        "target size": (tuple(data.target_size), kept.target_size),
    }
    for name, (wanted, there) in pairs.items():
        if wanted != there:
            raise UserError(f"bench model: the traces have {name} {there}, this preset {wanted}")


def expected_to_fit(config: Config, memory: float) -> str:
    """In words, for a GPU of `memory` bytes; empty for a step that there is no trace of.

    The traces are of steps in bf16 on one GPU that keep their activations, with one backward per
    stream, without self-training.
    """
    one_gpu = config.distributed.world == 1 and not config.runtime.compile
    other = config.backward != "auto" or not one_gpu or config.model.checkpoint_activations
    if other or config.mix or config.ema:
        return ""
    try:
        kept = trace.read(config.method, config.model.norm, "eager")
        check(config, kept)
    except UserError:
        return ""
    amp = "" if config.runtime.amp else "with --amp "
    batch = roofline.largest_batch(kept, memory)
    most = f"the largest --batch expected to fit is {batch}" if batch else "not even --batch 1 fits"
    return f"{amp}{most} (modelled, for {memory / 1e9:.0f} GB)"
