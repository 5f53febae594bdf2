"""NVIDIA apex's fused optimizers: optional, on CUDA alone, never a dependency.

The package index has another package of the same name, so apex is known by what it contains.
"""

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from torch.optim import Optimizer

from fastass.errors import UserError

SOURCE = "https://github.com/NVIDIA/apex"


def unavailable() -> str | None:
    """None where NVIDIA apex can be used, else the reason and the remedy."""
    if importlib.util.find_spec("apex") is None:
        return f"NVIDIA apex is not installed (optional); build it from {SOURCE}"
    try:
        optimizers = importlib.import_module("apex.optimizers")
    except ModuleNotFoundError:
        return (
            "the package `apex` installed here is not NVIDIA's: `pip uninstall apex`, then build "
            f"NVIDIA's from {SOURCE}"
        )
    except ImportError as error:
        return f"NVIDIA apex can't be imported ({error}); build it anew from {SOURCE}"
    missing = [name for name in ("FusedSGD", "FusedAdam") if not hasattr(optimizers, name)]
    if missing:
        return f"the package `apex` installed here has no {missing[0]}; build it from {SOURCE}"
    if importlib.util.find_spec("amp_C") is None:
        return f"NVIDIA apex was built without its CUDA extension; build it anew from {SOURCE}"
    return None


def _optimizers() -> ModuleType:
    reason = unavailable()
    if reason is not None:
        raise UserError(f"optim.optimizer_backend: {reason}; or use torch")
    return importlib.import_module("apex.optimizers")


def sgd(groups: list[dict[str, Any]], **values: Any) -> Optimizer:
    """FusedSGD with torch.optim.SGD's arguments. UserError where apex is not available."""
    optimizer: Optimizer = _optimizers().FusedSGD(groups, **values)
    return optimizer


def adam(groups: list[dict[str, Any]], **values: Any) -> Optimizer:
    """FusedAdam with torch.optim.Adam's arguments. UserError where apex is not available."""
    optimizer: Optimizer = _optimizers().FusedAdam(groups, adam_w_mode=False, **values)
    return optimizer
