"""What an elastic run can't do, said before it starts."""

import os

from fastass.config.schema import AUTO, Config
from fastass.errors import UserError
from fastass.runtime.elastic import check_lighthouse, check_torchft


def check_elastic(config: Config, lighthouse: str, *, overwrite: bool) -> None:
    """UserError for what `--elastic` can't be combined with, without torchft or a lighthouse."""
    refused = {
        "--overwrite": (overwrite, "each member joins the run that is there; remove it first"),
        "torchrun": ("RANK" in os.environ, "each process is a member by itself; start it alone"),
        "--batch auto": (config.batch == AUTO, "each member would find its own; give a number"),
        "--compile": (config.runtime.compile, "shapes change with the members; leave it out"),
        "--cuda-graph": (config.runtime.cuda_graph, "shapes change with the members; leave it out"),
        "--model-norm sync": (
            config.model.norm == "sync",
            "its exchange in the forward can't lose a member; use frozen or batch",
        ),
        "--loader dali": (
            config.data.loader == "dali",
            "its batches have one size; use --loader pillow",
        ),
        "--distributed-compress": (
            config.distributed.compress,
            "gradients are exchanged in full precision; leave it out",
        ),
    }
    for what, (given, reason) in refused.items():
        if given:
            raise UserError(f"--elastic can't be combined with {what}: {reason}")
    check_torchft()
    check_lighthouse(lighthouse)
