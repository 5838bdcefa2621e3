"""DeepSpeed ZeRO (Rajbhandari et al. 2020) through Lightning: what every replica would hold is sharded over the ranks.

Stage 1 shards the optimizer's state, 2 gradients, too, 3 weights, too; each costs more traffic than the one before.
The science is that of one process: weights and moments stay in float32, half precision comes by autocast, a gradient
is the sum over micro-steps and ranks, and it is clipped by the norm of the whole. DeepSpeed is an optional package.
"""

import logging
import os
import warnings
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DeepSpeedStrategy, Strategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from plmft.training.deepspeed_precision import Autocast
from plmft.training.distributed import current_ranks
from plmft.training.hardware import Device, Hardware, check_zero
from plmft.training.sharded_checkpoints import Fragment, write
from plmft.training.strategies import Sharing

AUTOCAST = {"bf16": torch.bfloat16, "fp32": None, "tf32": None}
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, by weight
KEPT_WHOLE = 4_000  # smaller weights (norms, biases) are not sharded: to gather them would cost more than it saves


def zero_strategy(
    hardware: Hardware, device: Device, largest_norm: float, environment: ClusterEnvironment | None = None
) -> "Zero":
    """ZeRO of the stage that `hardware.strategy` names. It brings its own precision: give the Trainer none.

    Args: largest_norm: that gradients are clipped to.
    Raises: InputError: see check_zero.
    """
    check_zero(hardware.strategy, device.precision)
    if device.kind == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed takes what is installed, not what is used
    stage = int(hardware.strategy.removeprefix("zero"))
    precision = Autocast(AUTOCAST[device.arithmetic], device.torch_type, keep_casts=stage < 3)
    return Zero(
        stage, offload=hardware.offload, largest_norm=largest_norm, precision=precision, environment=environment
    )


class Zero(Sharing, DeepSpeedStrategy):
    """ZeRO over all ranks, on GPUs or, with gloo, on CPUs.

    Args:
        stage: 1, 2 or 3. offload: optimizer state, and in stage 3 weights, in host memory.
        largest_norm: that gradients are clipped to. kept_whole: in stage 3, smaller weights are not sharded.
    """

    restore_checkpoint_after_setup = False  # weights are loaded while they are whole

    def __init__(
        self,
        stage: int,
        *,
        offload: bool,
        largest_norm: float,
        precision: Autocast,
        environment: ClusterEnvironment | None = None,
        kept_whole: int = KEPT_WHOLE,
    ) -> None:
        zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": True}
        if offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        if stage == 3:
            zero["stage3_param_persistence_threshold"] = kept_whole
            if offload:
                zero["offload_param"] = {"device": "cpu"}
        config = {
            "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's own log alone
            "managed_gradient_accumulation": False,  # a step ends when it is told to, not after a number of passes
            "gradient_clipping": largest_norm,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # torch's AdamW, also in host memory: same arithmetic, no compiler
            "zero_optimization": zero,
        }
        super().__init__(
            config=config, precision_plugin=precision, cluster_environment=environment, logging_level=logging.ERROR
        )
        self._engine: Any = None
        self._groups: list[list[nn.Parameter]] = []  # the optimizer's, before they are sharded
        self._attributes: dict[nn.Module, set[str]] = {}  # of each module, before DeepSpeed adds its own

    @property
    def deepspeed_engine(self) -> Any:
        """The engine of the training that was begun last."""
        return self._engine

    def setup_environment(self) -> None:
        """Without Lightning's check for CUDA: gloo does it, too."""
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Open the process group, if it is not open, and show it to DeepSpeed."""
        import deepspeed

        super(DeepSpeedStrategy, self).setup_distributed()
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled on every new machine
        warnings.filterwarnings("ignore", r".*torch\.distributed\.\w+_tensor` is deprecated")  # DeepSpeed calls them
        deepspeed.init_distributed(self.process_group_backend, auto_mpi_discovery=False, verbose=False)

    def init_deepspeed(self) -> None:
        """Shard; a test after training uses what is sharded already."""
        if self.lightning_module.trainer.state.fn != TrainerFn.FITTING:
            return
        import deepspeed

        module = self.lightning_module
        optimizer, schedule = self._init_optimizers()
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        self._attributes = {part: set(vars(part)) for part in module.modules()}
        self._engine, sharded, _, _ = deepspeed.initialize(
            args=Namespace(device_rank=self.local_rank),
            config=self.config,
            model=module,
            model_parameters=[p for p in module.parameters() if p.requires_grad],
            optimizer=optimizer,
            dist_init_required=False,
        )
        self.optimizers = [sharded]
        self.lr_scheduler_configs = [schedule] if schedule else []

    @property
    def scale(self) -> float:
        """DeepSpeed takes the mean over ranks, where the sum is wanted."""
        return float(self.world_size)

    def add_gradients(self, loss: Tensor) -> None:
        """Add the gradients of one pass."""
        zero = self._engine.optimizer
        zero.clear_backward_seen_flag()  # as its own forward does, which is not used here
        if self.zero_stage_3 and zero.micro_step_id == 0:  # a weight that this pass does not reach must begin at 0, too
            zero.grad_partitions_flat_buffer.zero_()
            zero.micro_step_id = 1  # add, where it would copy
        self._engine.backward(loss * self.scale)
        self._pass_ends()

    def _pass_ends(self) -> None:
        if self.zero_stage_3:  # its plan of which weights come next begins anew
            self._engine.optimizer.parameter_offload.get_param_coordinator().reset_step()

    def validation_step(self, *args: Any, **options: Any) -> Any:
        """As usual."""
        result = super().validation_step(*args, **options)
        self._pass_ends()
        return result

    def test_step(self, *args: Any, **options: Any) -> Any:
        """As usual."""
        result = super().test_step(*args, **options)
        self._pass_ends()
        return result

    def clip_gradients(self, model: nn.Module, largest_norm: float) -> None:
        """DeepSpeed does it in its step, by the norm over all ranks."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's fragments of weights, and what is not sharded; what does not learn is left out, as always."""
        state = self.lightning_module.state_dict(keep_vars=True)
        learning = {name: value for name, value in state.items() if value.requires_grad}
        others = {n: v.detach().cpu() for n, v in state.items() if not isinstance(v, nn.Parameter)}
        return {**others, **{name: self._fragment(weight) for name, weight in learning.items()}}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As AdamW of one process would tell it, with this rank's fragments of moments."""
        base = self._engine.optimizer.optimizer
        weights = [weight for group in self._groups for weight in group]
        states: dict[int, dict[str, Any]] = {}
        if base.state:  # empty before the first step
            self._link_moments()
            step = next(iter(base.state.values()))["step"]
            for number, weight in enumerate(weights):  # each has its own count: one that is shared counts them all
                moments = {key: self._fragment(weight, key) for key in MOMENTS}
                states[number] = {"step": step.to("cpu", copy=True), **moments}
        numbers = iter(range(len(weights)))
        groups = [
            {**group, "params": [next(numbers) for _ in weights]}
            for group, weights in zip(base.param_groups, self._groups, strict=True)
        ]
        return {"state": states, "param_groups": groups}

    def _fragment(self, weight: nn.Parameter, moment: str | None = None) -> Fragment:
        """What this rank holds of a weight that learns, or of one of its moments; it may be nothing."""
        if self.zero_stage_3:
            from deepspeed.utils import safe_get_local_optimizer_state

            offset = min(self.global_rank * weight.partition_numel(), weight.ds_numel)
            held = weight.ds_tensor if moment is None else safe_get_local_optimizer_state(weight, moment)
            return Fragment.of(held.flatten()[: weight.ds_numel - offset], offset, weight.ds_shape)
        mapping = weight._hp_mapping
        if mapping is None:
            return Fragment.of(weight.flatten()[:0], 0, weight.shape)
        start, size = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
        held = weight.flatten()[start:][:size] if moment is None else mapping.get_optim_state_fragment(moment)
        return Fragment.of(held, start, weight.shape)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """From a checkpoint of any number of processes."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        (saved,) = checkpoint["optimizer_states"]
        zero = self._engine.optimizer
        for group, options in zip(zero.optimizer.param_groups, saved["param_groups"], strict=True):
            group.update({name: value for name, value in options.items() if name != "params"})
        if not saved["state"]:
            return
        step = next(iter(saved["state"].values()))["step"]
        for flat in zero.fp32_partitioned_groups_flat if self.zero_stage_3 else zero.single_partition_of_fp32_groups:
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            zero.optimizer.state[flat] = {"step": step.clone().to(flat.device), **moments}
        self._link_moments()
        for number, weight in enumerate(w for group in self._groups for w in group):
            for key in MOMENTS:
                value = saved["state"][number][key].to(self.root_device)
                if self.zero_stage_3:
                    safe_set_local_optimizer_state(weight, self._share(value, weight.partition_numel()), key)
                else:
                    safe_set_full_optimizer_state(weight, value, key)

    def _link_moments(self) -> None:
        """Stages 1 and 2 do it when the first group has made its first step, and the others' are not there yet."""
        if not self.zero_stage_3:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _share(self, whole: Tensor, size: int) -> Tensor:
        """This rank's part; the last ones are filled up with zeros."""
        flat = whole.new_zeros(size * self.world_size)
        flat[: whole.numel()] = whole.flatten()
        return flat[size * self.global_rank :][:size]

    @property
    def lightning_restore_optimizer(self) -> bool:
        """From whole tensors."""
        return True

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Each rank writes its part."""
        write(Path(filepath), checkpoint, current_ranks())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """One of any number of processes."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Before anything is sharded."""
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_weights(self, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Load whole weights by name, for the test: the optimizer's copies stay as they are."""
        for name, held in module.state_dict(keep_vars=True).items():
            if name in weights:
                with torch.no_grad(), _gathered(held, change=True):
                    held.copy_(weights[name])

    def gather_weights(self, module: nn.Module) -> None:
        """Leave DeepSpeed: rank 0 gets an ordinary model; those of other ranks compute no more."""
        if self._engine is None:
            return
        whole: dict[nn.Parameter, nn.Parameter] = {}
        for weight in module.parameters():
            with _gathered(weight):
                if self.is_global_zero:
                    whole[weight] = nn.Parameter(weight.detach().cpu().clone(), requires_grad=weight.requires_grad)
        self._engine.destroy()
        self._engine = None
        if self.is_global_zero:
            for part in module.modules():
                part._parameters = {name: w if w is None else whole[w] for name, w in part._parameters.items()}
                for name in set(vars(part)) - self._attributes[part]:
                    delattr(part, name)

    def teardown(self) -> None:
        """As usual, but what is sharded stays on its device: the test comes next."""
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


def _gathered(value: Tensor, change: bool = False) -> AbstractContextManager:
    """Makes a sharded weight whole for a while, on all ranks; a change is taken from rank 0."""
    if not hasattr(value, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([value], modifier_rank=0 if change else None)
