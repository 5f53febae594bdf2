"""What self-training needs of a configuration."""

from fastass.config.schema import Config
from fastass.errors import UserError


def check_mixing(config: Config) -> None:
    """UserError if `--mix` can't train with the rest of the configuration."""
    data, paste = config.data, config.mixing.paste
    if config.method == "oracle":
        raise UserError(
            "--mix needs a source, and method oracle has none; give --no-mix, or choose another "
            "--method"
        )
    no_labels = config.labelled == 0 and config.labelled_list is None
    if paste == "labelled" and (no_labels or config.method == "source_only"):
        raise UserError(
            "--mixing-paste labelled pastes from labelled target images, and there are none; give "
            "--labelled N with a method that uses them, or --mixing-paste source"
        )
    (source_width, source_height), (width, height) = data.source_size, data.target_size
    if paste != "labelled" and (source_width < width or source_height < height):
        raise UserError(
            f"--mix crops source images to the size of target images, {width}x{height}, and they "
            f"are {source_width}x{source_height}; raise --data-source-size, lower "
            "--data-target-size, or paste from labelled target images alone, --mixing-paste "
            "labelled"
        )
