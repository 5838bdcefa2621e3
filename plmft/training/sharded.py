"""FSDP2: weights, gradients and optimizer state of the backbone sharded over the ranks (Zhao et al. 2023).

Each layer's weights are gathered when it computes, and dropped again. The head, a small share, stays whole everywhere.
The optimizer works on the local shards as on plain tensors: its arithmetic is by element, so the outcome is the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from plmft.training.distributed import current_ranks
from plmft.training.sharded_checkpoints import Fragment, write
from plmft.training.strategies import Replicas, reached_anywhere, sum_over_ranks


class Sharded(Replicas):
    """FSDP2 over all ranks."""

    restore_checkpoint_after_setup = True  # a shard can't be filled before it is made

    def model_to_device(self) -> None:
        """Layer by layer, each sharded as it comes: a device never holds the whole."""
        backbone = self.lightning_module.predictor.backbone
        if not isinstance(backbone, FSDPModule):
            self._shards: dict[nn.Parameter, nn.Parameter] = {}  # of each sharded weight that learns, its local part
            self._shard(backbone)
        super().model_to_device()

    def share_weights(self) -> None:
        """Nothing to do: every rank has built the same model from the same seed, and holds its shards of it."""

    def _shard(self, backbone: nn.Module) -> None:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for layer in layers_of(backbone):
            fully_shard(layer, mesh=mesh)
        fully_shard(backbone, mesh=mesh)
        for module in backbone.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # a sum over ranks, where FSDP's default is the mean
                module.set_force_sum_reduction_for_comms(True)  # gloo knows no other factor

    def setup_optimizers(self, trainer: Trainer) -> None:
        """Give the optimizer the local shards in place of the sharded weights."""
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["params"] = [self._local(p) for p in group["params"]]

    def _local(self, weight: nn.Parameter) -> nn.Parameter:
        if not isinstance(weight, DTensor):
            return weight
        self._shards[weight] = nn.Parameter(weight.detach().to_local())  # the same memory
        return self._shards[weight]

    def sum_gradients(self, model: nn.Module) -> None:
        """FSDP has summed those of sharded weights; this does the others, and hands the optimizer its shards'."""
        if self._reached is None:
            whole = [p for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)]
            self._reached = reached_anywhere(whole)
        sum_over_ranks(self._reached)
        for weight, local in self._shards.items():
            local.grad = None if weight.grad is None else weight.grad.to_local()

    def clip_gradients(self, model: nn.Module, largest_norm: float) -> None:
        """One norm over the shards of all ranks and what every rank holds whole."""
        shards = [local.grad for local in self._shards.values() if local.grad is not None]
        whole = [p.grad for p in self._reached if p.grad is not None]
        squares = torch.zeros((), device=self.root_device)
        for gradient in shards:
            squares += gradient.square().sum()
        dist.all_reduce(squares)
        for gradient in whole:
            squares += gradient.square().sum()
        scale = (largest_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        if shards or whole:
            torch._foreach_mul_(shards + whole, scale)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Weights, those that are sharded as fragments; what does not learn is left out, as in every checkpoint."""
        fixed = {name for name, p in self.lightning_module.named_parameters() if not p.requires_grad}
        state = self.lightning_module.state_dict()
        return {name: self._held(value, value) for name, value in state.items() if name not in fixed}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As an optimizer of one process would tell it, with fragments where weights are sharded."""
        state = getattr(optimizer, "_optimizer", optimizer).state_dict()
        weights = {local: weight for weight, local in self._shards.items()}
        numbered = [weights.get(p, p) for group in optimizer.param_groups for p in group["params"]]
        held = {n: {k: self._held(v, numbered[n]) for k, v in entries.items()} for n, entries in state["state"].items()}
        return {**state, "state": held}

    def _held(self, value: Tensor, like: Tensor) -> Tensor | Fragment:
        """A state by element is sharded as its weight is; a step count is not."""
        if not isinstance(like, DTensor) or value.ndim == 0:
            return value.detach().cpu()
        local = value.to_local() if isinstance(value, DTensor) else value
        rows, width = like.shape[0], like.shape[0] and like.numel() // like.shape[0]
        first = min(self.global_rank * -(-rows // self.world_size), rows)  # as torch.chunk deals them out
        return Fragment.of(local, first * width, like.shape)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Each rank writes its part."""
        write(Path(filepath), checkpoint, current_ranks())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """From a checkpoint of any number of processes."""
        self.load_weights(self.lightning_module, checkpoint["state_dict"])

    def load_weights(self, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Each rank keeps its shards of the whole weights."""
        held = module.state_dict()
        for name, value in weights.items():
            _take_share(held[name], value)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """From a checkpoint of any number of processes."""
        weights = {local: weight for weight, local in self._shards.items()}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            numbered = [weights.get(p, p) for group in optimizer.param_groups for p in group["params"]]
            for number, entries in state["state"].items():
                state["state"][number] = {k: _share(v, numbered[number]) for k, v in entries.items()}
            optimizer.load_state_dict(state)

    def gather_weights(self, module: nn.Module) -> None:
        """On rank 0 put whole weights in the places of shards; after that it computes no more with the others."""
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
        for part in module.modules():
            for name, weight in list(part.named_parameters(recurse=False)):
                if isinstance(weight, DTensor):
                    whole = weight.full_tensor()
                    if self.is_global_zero:
                        part._parameters[name] = nn.Parameter(whole.detach().cpu(), requires_grad=weight.requires_grad)
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.__class__ = type(part).__bases__[1]  # what it was: FSDP's own looks for shards

    def teardown(self) -> None:
        """As usual, but shards stay on their device: the test comes next."""
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


def layers_of(backbone: nn.Module) -> nn.ModuleList:
    """The repeated layers: the longest list of modules."""
    return max((m for m in backbone.modules() if isinstance(m, nn.ModuleList)), key=len)


def _share(value: Tensor, weight: Tensor) -> Tensor:
    if not isinstance(weight, DTensor) or value.ndim == 0:
        return value
    whole = value.to(weight.device)
    return distribute_tensor(whole, weight.device_mesh, weight.placements).to_local()


@torch.no_grad()
def _take_share(held: Tensor, whole: Tensor) -> None:
    target = held.to_local() if isinstance(held, DTensor) else held
    target.copy_(_share(whole, held))
