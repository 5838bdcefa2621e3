"""Every family of backbones under ZeRO-3 with each weight sharded, beside a plain loop: one rank of two.

A weight that is read elsewhere than in its own layer's call is empty there, and fails here.
"""

import logging
import warnings

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from plmft.data.packing import StepBatch
from plmft.models.build import build_predictor
from plmft.models.head_spec import ResidueHead
from plmft.models.predictor import Predictor
from plmft.models.spec import OneHotBiLstmSpec, OneHotResNetSpec
from plmft.models.tuning import Full, LoRA, Tuning
from plmft.training.deepspeed import Zero
from plmft.training.deepspeed_precision import Autocast
from plmft.training.distributed import Ranks
from plmft.training.module import FineTuning
from plmft.training.optim import Optim
from tests.unit.networks import packed
from tests.unit.tuned_models import LORA, RANDOM, spec

SCRATCH = {
    "onehot_resnet": OneHotResNetSpec("resnet", 16, 3, 2, 2, 3584, "", ""),
    "onehot_bilstm": OneHotBiLstmSpec("bilstm", 8, 2, 3648, "", ""),
}
CASES: list[tuple[str, Tuning, bool]] = [
    *[(family, Full(), False) for family in ("esm2", "esm1b", "bert", "onehot_cnn", *SCRATCH)],
    ("esm2", LORA, False),
    ("bert", LORA, False),
    ("esm2", LoRA(rank=2, alpha=4, dropout=0.0, targets=("attention",), layers=1), True),
]
OPTIM = Optim(1e-3, 1, None, 0.1, 0.0, "constant", 0.5, None)


def predictor_of(family: str, tuning: Tuning, checkpointing: bool) -> Predictor:
    torch.manual_seed(0)
    model = SCRATCH.get(family) or spec(family)
    head = ResidueHead(0.0)
    predictor = build_predictor(model, RANDOM, tuning=tuning, head=head, kind="residue_classification", outputs=3)
    predictor.backbone.checkpointing = checkpointing
    return predictor


def steps_of(family: str) -> list[StepBatch]:
    """Three steps of four micro-steps."""
    rng, steps = np.random.default_rng(0), []
    for _ in range(3):
        micro = [
            packed(rng, family, lengths, "residue_classification")[1]
            for lengths in ([5, 30], [12, 44], [20, 7], [33, 9])
        ]
        steps.append(StepBatch(tuple(micro), sum(int((batch.targets >= 0).sum()) for batch in micro)))
    return steps


def plain(predictor: Predictor, steps: list[StepBatch]) -> dict[str, Tensor]:
    optimizer, _ = OPTIM.build(predictor, len(steps))
    predictor.train()
    for step in steps:
        optimizer.zero_grad()
        for batch in step.micro:
            (predictor.loss_sum(batch) / step.targets).backward()
        torch.nn.utils.clip_grad_norm_(predictor.parameters(), OPTIM.clip_norm)
        optimizer.step()
    return predictor.state_dict()


def sharded(predictor: Predictor, steps: list[StepBatch], ranks: Ranks) -> dict[str, Tensor]:
    strategy = Zero(3, offload=False, largest_norm=OPTIM.clip_norm, precision=Autocast(None, "cpu"), kept_whole=0)
    module = FineTuning(predictor, OPTIM, total_steps=len(steps), score=lambda _: {}, monitor="accuracy", ranks=ranks)
    mine = [StepBatch(step.micro[ranks.rank :: 2], step.targets) for step in steps]
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, max_epochs=1, **dict.fromkeys(names, False))
    trainer.fit(module, DataLoader(mine, batch_size=None, collate_fn=lambda step: step))
    assert not any(p.numel() for p in predictor.parameters() if not p.ds_persist)
    strategy.gather_weights(module)
    return predictor.state_dict()


def main() -> None:
    """Raises: AssertionError: a family's weights differ from those of the plain loop."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), 2, dist.get_rank())
    for family, tuning, checkpointing in CASES:
        steps = steps_of(family)
        wanted = plain(predictor_of(family, tuning, checkpointing), steps)
        found = sharded(predictor_of(family, tuning, checkpointing), steps, ranks)
        if ranks.first:
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
            print("same", family, tuning.name)
    dist.barrier()


if __name__ == "__main__":
    main()
