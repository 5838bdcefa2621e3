"""What a run asks SLURM for, besides its nodes and processes, which are hardware.nodes and hardware.devices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt

PLACES = ("partition", "account", "qos", "constraint")  # where a job may run, and who pays


@dataclass(frozen=True)
class Slurm:
    """Options of sbatch. None leaves one to the cluster.

    Args:
        time: the time limit, as sbatch takes it: minutes, hours:minutes:seconds, or days-hours.
        memory_gb: for each node. cpus: for each process.
        gpus: ask for a GPU for each process also where hardware.accelerator is auto.
        signal_s: seconds between SIGUSR2, on which a run writes its state and queues again, and the time limit. SLURM
            may send it up to a minute early.
        requeue: whether a job may be queued again: after that signal, a preemption, or the failure of its node.
        extra: any other option of sbatch, by its long name: {exclude: node07}; true for one that takes no value.
    """

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    time: str | int | None
    memory_gb: Annotated[float, Gt(0)] | None
    cpus: Annotated[int, Gt(0)] | None
    gpus: bool
    signal_s: Annotated[int, Ge(0)]
    requeue: bool
    extra: dict[str, str | int | bool]


def request(hardware: Mapping[str, Any]) -> dict[str, Any]:
    """submitit's parameters for a job on this hardware, a config that was checked; equal requests make one array."""
    slurm = {name: value for name, value in hardware["slurm"].items() if name != "_target_"}
    devices, cpus, memory = hardware["devices"], slurm["cpus"], slurm["memory_gb"]
    asked = {name: slurm[name] for name in PLACES}
    asked |= {
        "time": slurm["time"],  # stays where it is None: submitit would put in 5 minutes
        "nodes": hardware["nodes"],
        "ntasks_per_node": devices,
        "cpus_per_task": cpus,
        "mem": memory and f"{round(memory * 1e9 / 2**20)}M",  # SLURM's M is 2^20
        "gpus_per_node": devices if slurm["gpus"] or hardware["accelerator"] == "gpu" else None,
        "signal_delay_s": slurm["signal_s"],
        # srun no longer takes it from sbatch; a rank that fails ends the others
        "srun_args": ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else ())],
    }
    asked["additional_parameters"] = {"requeue" if slurm["requeue"] else "no-requeue": True, **slurm["extra"]}
    return {name: value for name, value in asked.items() if value is not None or name == "time"}
