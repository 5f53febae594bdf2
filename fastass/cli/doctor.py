"""What this machine supports, and why the rest is unavailable."""

import importlib
import importlib.metadata
import importlib.util
import os
import shutil

import torch

from fastass import kernels
from fastass.checkpoint.run_directory import versions
from fastass.runtime.device import PRECISIONS, choose_amp, choose_device, describe
from fastass.tracking.services import MODULES
from fastass.training.optimizers import apex

_OPTIONAL = (
    ("--backbone hf:NAME", "transformers", "transformers"),
    ("--backbone timm:NAME", "timm", "timm"),
    ("export onnx", "onnxscript", "onnx onnxscript onnxruntime"),
    ("predict videos", "av", "av"),
    ("reproduce's charts", "matplotlib", "matplotlib"),
)
"""Feature, the module that it imports, the packages that bring it."""


def report() -> str:
    """One line each for versions, devices, precision, operators, loaders, optional packages."""
    lines = [("versions", " ".join(f"{name} {number}" for name, number in versions().items()))]
    lines.append(("cpu", f"{os.cpu_count()} cores, {describe(torch.device('cpu'))}"))
    lines.append(("cuda", _cuda()))
    lines.append(("--amp", _amp()))
    for name, reason in kernels.available().items():
        lines.append((f"--kernels {name}", "yes" if reason is None else f"no: {reason}"))
    lines.append(("--loader pillow", "yes"))
    lines.append(("--loader dali", _importable("nvidia.dali", "pip install nvidia-dali-cuda130")))
    lines.append(("--optimizer-backend torch", "yes: fused kernels on CPU and CUDA"))
    reason = apex.unavailable()
    lines.append(("--optimizer-backend apex", "yes" if reason is None else f"no: {reason}"))
    services = ((f"--log {name}", name, name) for name in MODULES)
    for feature, module, packages in (*_OPTIONAL, *services):
        lines.append((feature, _installed(module, packages)))
    lines.append(("free disk here", f"{shutil.disk_usage('.').free / 2**30:.0f} GiB"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def _cuda() -> str:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        return f"no: {'no GPU or driver found' if built else 'torch was built without CUDA'}"
    devices = [describe(torch.device("cuda", i)) for i in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}: {', '.join(devices)}"


def _amp() -> str:
    dtype, why = choose_amp(choose_device("auto"))
    return f"{PRECISIONS[dtype]}, {why}"


def _installed(module: str, packages: str) -> str:
    """Looks the package up without importing it: some take seconds."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return f"no: not installed; pip install {packages}"
    try:
        return f"yes ({importlib.metadata.version(packages.split()[0])})"
    except importlib.metadata.PackageNotFoundError:
        return "yes"


def _importable(module: str, remedy: str) -> str:
    try:
        package = importlib.import_module(module)
    except Exception as error:  # a broken installation raises anything
        return f"no: {error}; {remedy}"
    return f"yes ({getattr(package, '__version__', 'version unknown')})"
