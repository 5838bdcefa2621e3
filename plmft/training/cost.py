"""Which meters a run carries, and how many FLOPs its steps need, from its parts."""

from functools import lru_cache

from plmft.efficiency.flops import Peak, find_peak
from plmft.efficiency.phase import PhaseMeter
from plmft.models.head_spec import Head
from plmft.models.spec import Spec
from plmft.models.tuning import Tuning
from plmft.training.hardware import Device
from plmft.training.metering import Flops, Metering
from plmft.training.run_flops import backbone_flops, run_flops


def make_metering(
    spec: Spec,
    tuning: Tuning,
    head: Head,
    outputs: int,
    device: Device,
    usd_per_hour: float | None,
    *,
    cached: bool = False,
) -> Metering:
    """Meters for a run with these parts; measures a CPU's peak, which takes 0.3 s.

    Args: cached: a frozen backbone's vectors come from the cache, so that the head alone computes.
    """
    peak = _peak(device.torch_type, device.arithmetic)
    train, forward = run_flops(spec, tuning, head, outputs, cached=cached)

    def make() -> PhaseMeter:
        return _phase_meter(device, usd_per_hour, peak)

    return Metering(make, train_flops=train, test_flops=forward)


def make_embedding_meter(spec: Spec, device: Device, usd_per_hour: float | None) -> tuple[PhaseMeter, Flops]:
    """A meter for the phase in which the backbone's vectors are computed, and the FLOPs of its steps."""
    peak = _peak(device.torch_type, device.arithmetic)
    return _phase_meter(device, usd_per_hour, peak), lambda lengths: backbone_flops(spec, lengths)


def _phase_meter(device: Device, usd_per_hour: float | None, peak: Peak | None) -> PhaseMeter:
    first = device.index == 0
    kind = device.torch_type
    return PhaseMeter(kind, device.index, usd_per_hour=usd_per_hour, peak=peak, first_on_machine=first)


@lru_cache
def _peak(device_type: str, arithmetic: str) -> Peak:
    return find_peak(device_type, 0, arithmetic)
