"""Values that no run can have: out of their range, without effect, or in contradiction."""

from fastass.config.schema import LAMBDA_SADV, Config
from fastass.config.text import check
from fastass.errors import UserError
from fastass.self_training.check import check_mixing


def check_values(config: Config) -> None:
    """UserError for a value that no run can have: out of its range, or in contradiction."""
    check(config)
    _check_losses(config)
    d = config.data
    if config.method == "oracle" and config.labelled == 0 and config.labelled_list is None:
        raise UserError("method oracle trains on labelled target images; give --labelled N")
    if config.mix:
        check_mixing(config)
    model = config.model
    if config.loss.push != "source" and not config.method.startswith("ga"):
        raise UserError(
            f"--loss-push {config.loss.push} has no effect on method {config.method}, which has no "
            "L_gadv; leave it out"
        )
    if config.loss.label_grid == "aligned":
        if "+" not in config.method:
            raise UserError(
                f"--loss-label-grid aligned has no effect on method {config.method}, which has no "
                "semantic module; leave it out"
            )
        if not model.align_corners:
            raise UserError(
                "--loss-label-grid aligned is the grid of an upsampling with aligned corners; it "
                "contradicts --no-model-align-corners"
            )
    for flag, given in (
        ("--norm-statistics domain", config.norm_statistics == "domain"),
        ("--norm-momentum", model.norm_momentum is not None),
    ):
        if given and not model.has_running_statistics:
            vgg = model.backbone == "vgg16"
            what = "vgg16 has no norms" if vgg else "norm frozen keeps constants"
            raise UserError(
                f"{flag} has no effect: {what}, so there are no running statistics; leave it out"
            )
    if model.channels != 3 and d.loader == "dali":
        raise UserError("--loader dali reads images of 3 channels; use --loader pillow")
    if model.channels != 3 and config.preset == "toycity" and None in (d.source, d.target):
        raise UserError(
            f"--channels {model.channels}: ToyCity's images have 3; give --data-source and "
            "--data-target"
        )
    d.normalization(model.channels)  # checks their numbers
    if config.optim.repeated_updates:
        _check_repeated_updates(config)
    if d.scale is not None and d.scale[0] > d.scale[1]:
        raise UserError(f"--data-scale: expected low,high, got {d.scale[0]:g},{d.scale[1]:g}")
    _check_rates(config)
    if d.scale is None and (d.source_resize or d.target_resize):
        name = "source" if d.source_resize else "target"
        raise UserError(f"--data-{name}-resize has no effect without --data-scale; give both")
    if d.rare_class is None and d.rare_class_on != "source":
        raise UserError("--rare-class-on has no effect without --rare-class T; give both")
    if d.rare_class is not None and config.method == "oracle" and d.rare_class_on == "source":
        raise UserError(
            "--rare-class draws source images, and method oracle has none; "
            "add --rare-class-on labelled"
        )


def _check_losses(config: Config) -> None:
    """UserError if no loss of the network has a weight: it would learn nothing."""
    weights = {"--loss-seg": config.loss.seg}
    if config.method.startswith("ga"):
        weights["--loss-gadv"] = config.loss.gadv
    if "+" in config.method:
        chosen = config.loss.sadv
        weights["--loss-sadv"] = LAMBDA_SADV[config.method] if chosen is None else chosen
    if config.mix:
        weights["--loss-mix"] = config.loss.mix
    if not any(weights.values()):
        raise UserError(
            f"every loss of the network has weight 0 ({', '.join(weights)}), so it would learn "
            "nothing; give one of them a weight above 0"
        )
    if config.start_steps and not config.loss.seg:
        raise UserError(
            "--loss-seg 0: the supervised start would learn nothing; give a weight above 0, or "
            "--start-steps 0"
        )


def _check_rates(config: Config) -> None:
    """UserError for a warm-up or a decay that does not fit the steps: training would do nothing."""
    o = config.optim
    if 0 < o.schedule_steps < config.steps:
        raise UserError(
            f"--schedule-steps {o.schedule_steps}: the learning rate would be 0 from this step on, "
            f"and --steps is {config.steps}; give at least as many, or 0 for the run's own"
        )
    for flag, steps in (("--start-steps", config.start_steps), ("--steps", config.steps)):
        if 0 < steps < o.warmup:
            raise UserError(
                f"--warmup {o.warmup}: is longer than {flag} {steps}, so the learning rate would "
                "never be reached; give fewer steps"
            )


def _check_repeated_updates(config: Config) -> None:
    o, what = config.optim, "--repeated-updates repeats what the AdaptSegNet baseline does"
    if not config.model.backbone.startswith("resnet"):
        raise UserError(f"{what} with a ResNet, not with {config.model.backbone}; leave it out")
    if o.optimizer != "sgd" or o.optimizer_backend == "apex":
        found = "apex's SGD" if o.optimizer == "sgd" else o.optimizer
        raise UserError(f"{what} with PyTorch's SGD, not with {found}; leave it out")
