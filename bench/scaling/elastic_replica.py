"""One replica of the elastic prototype: a training loop whose members may come and go.

Each step divides one global batch among the replicas that take part in it. torchft agrees on who
they are, sums the counts of valid items and the gradients over them, and decides whether the step
counts. The losses keep their one-backward form: every batch is weighted by its share of the valid
items of the whole step, so the sum does not depend on how many replicas divide it.
"""

import json
import math
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ReduceOp

from fastass.config.presets import preset
from fastass.config.schema import Config
from fastass.config.text import override
from fastass.method.adaptation import Adaptation, method_spec, objective
from fastass.method.item_weights import item_weights
from fastass.method.terms import LossTerms
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.process_group import World
from fastass.training.step import build

UNTIL = "until"
PAUSE = 0.25  # seconds before a step, so that few of them pass while a replica starts
GLOBAL_BATCH, CLASSES, HEIGHT, WIDTH = 4, 19, 32, 64


@dataclass(frozen=True)
class Members(World):
    """The sum over the replicas of a step."""

    grouped: bool = True
    manager: Any = None

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        self.manager.allreduce(total, reduce_op=ReduceOp.SUM).wait()
        return total


def small() -> Config:
    """GA+CSA with networks of a few thousand weights; a frozen norm, so that the cut is exact."""
    changes = {
        "method": "ga+csa",
        "mix": False,
        "model.width": 16,
        "model.norm": "frozen",
        "discriminator.width": 4,
        "discriminator.hidden": 8,
        "data.source_size": (WIDTH, HEIGHT),
        "data.target_size": (WIDTH, HEIGHT),
    }
    return override(preset("toycity"), changes).resolved()


def sgd(module: Adaptation) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)


def share(step: int, member: int, members: int) -> StepBatch:
    """The samples `member`, `member + members`, … of the global batch of a step."""
    samples = [_sample(step, i) for i in range(member, GLOBAL_BATCH, members)]
    images, labels = (
        [torch.cat(part) for part in zip(*kind, strict=True)] for kind in zip(*samples, strict=True)
    )
    nhwc = [each.contiguous(memory_format=torch.channels_last) for each in images]
    source, labelled = (Batch(i, t) for i, t in zip(nhwc[:2], labels, strict=True))
    return StepBatch(source, labelled, Batch(nhwc[2], None))


def _sample(step: int, i: int) -> tuple[list[Tensor], list[Tensor]]:
    """Three images and two labels, in which 10, 20, … % of the pixels are ignored."""
    draw = torch.Generator().manual_seed(1000 * step + i)
    images = [torch.randn(1, 3, HEIGHT, WIDTH, generator=draw) for _ in range(3)]
    labels = []
    for _ in range(2):
        ids = torch.randint(0, CLASSES, (1, HEIGHT, WIDTH), generator=draw)
        ids[torch.rand(ids.shape, generator=draw) < 0.1 * (i + 1)] = 255
        labels.append(ids.to(torch.uint8))
    return images, labels


def gradients(module: Adaptation, config: Config, batch: StepBatch, members: World) -> Tensor:
    """One backward over this replica's share → its loss; the gradients are in the module."""
    weights = item_weights(module, [batch], members)[0]
    terms = zip(module(batch, adapt=True), weights, strict=True)
    weighted = LossTerms(*(None if t is None else w * t for t, w in terms))
    loss = objective(weighted, config.loss)
    loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
    return loss.detach()


def train(name: str, folder: Path, log: Path, port: int) -> None:
    """Train until FOLDER/until names a step, and to that step."""
    from torchft import Manager, ProcessGroupGloo

    torch.set_num_threads(1)
    config = small()
    module = build(config, method_spec(config.method, GLOBAL_BATCH, False))
    optimizer = sgd(module)

    def restore(state: dict[str, Any]) -> None:
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])

    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=5)),
        state_dict=lambda: {"module": module.state_dict(), "optimizer": optimizer.state_dict()},
        load_state_dict=restore,
        min_replica_size=1,
        use_async_quorum=False,  # the members are known before the batch is cut
        timeout=timedelta(seconds=10),
        quorum_timeout=timedelta(seconds=30),
        rank=0,
        world_size=1,
        store_addr="localhost",
        store_port=port,
        replica_id=name,
    )
    members = Members(manager=manager)
    with open(log, "a", encoding="utf-8") as file:
        while manager.current_step() < _until(folder):
            time.sleep(PAUSE)
            begin = time.perf_counter()
            optimizer.zero_grad()
            manager.start_quorum()
            step, count = manager.current_step(), manager.num_participants()
            loss = gradients(
                module, config, share(step, manager.participating_rank(), count), members
            )
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            flat = members.sum(torch.cat([*(g.flatten() for g in grads), loss[None]]))
            parts = flat[:-1].split([g.numel() for g in grads])
            for grad, part in zip(grads, parts, strict=True):
                grad.copy_(part.view_as(grad))
            counts = manager.should_commit()
            if counts:
                optimizer.step()
            weights = sum(float(p.double().sum()) for p in module.parameters())
            record = {"step": step, "members": count, "counts": counts, "loss": float(flat[-1])}
            seconds = time.perf_counter() - begin
            file.write(json.dumps({**record, "weights": weights, "seconds": seconds}) + "\n")
            file.flush()
    manager.shutdown()


def _until(folder: Path) -> float:
    file = folder / UNTIL
    return int(file.read_text()) if file.exists() else math.inf


if __name__ == "__main__":
    name, folder, log, port = sys.argv[1:]
    train(name, Path(folder), Path(log), int(port))
