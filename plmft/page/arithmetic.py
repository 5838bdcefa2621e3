"""What the claims say against one another or against a data sheet: arithmetic alone, computed from claims.csv anew.

A check takes the words after its name in disputes.csv and gives a sentence. It rules claims out; whether that settles
a dispute stands in disputes.csv. Peaks are those of plmft.efficiency.flops, sizes those of conf/model.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import yaml

from plmft.config.compose import config_folder
from plmft.page.claims import Claim, load
from plmft.page.figures import figure

GIB, GB, TERA = 2**30, 1e9, 1e12
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
ADAMW_BYTES = 16  # a weight in fp32: itself, its gradient and two moments
CARDS = {"a100": ("NVIDIA A100-SXM4-80GB", "fp16"), "v100": ("Tesla V100-SXM2-32GB", "fp16")}
A100_WATTS = 400  # SXM4, data sheet of the A100 80GB
V100_P3_GB = 16  # of the card of p3.2xlarge: https://aws.amazon.com/ec2/instance-types/p3/
DAY_S, HOUR_S = 86_400, 3600
NUCLEAR = 6  # FLOPs of training a weight on a token: Kaplan et al. 2020, arXiv:2001.08361
PRETRAINING_TOKENS = 1e12  # of ESM-2: 500,000 updates of 2 million tokens, Lin et al. 2023


def claimed(table: str, *, model: str = "", metric: str = "") -> list[Claim]:
    """Claims of a table, of one model or one metric."""
    return [
        claim
        for claim in load()
        if claim.table == table and model in ("", claim.model) and metric in ("", claim.metric)
    ]


@cache
def size(model: str) -> int:
    """Parameters of a published model, as conf/model has them."""
    return int(spec(model)["parameters"])


@cache
def spec(model: str) -> dict:
    """conf/model/<model>.yaml."""
    return yaml.safe_load((config_folder() / "model" / f"{model}.yaml").read_text())


def above_peak(words: str) -> str:
    """2·N·L floating-point operations a sequence (2 a weight and token) against the card's dense 16-bit peak.

    Args: words: model, and a card where the dispute is about one.
    """
    from plmft.efficiency.flops import peak_flops

    model, *only = words.split()
    over, within = [], []
    for claim, rate in _rates(model):
        if only and not claim.hardware.startswith(only[0]):
            continue
        card = next((CARDS[name] for name in CARDS if claim.hardware.startswith(name)), None)
        if card is None or claim.length is None:
            continue
        needed, peak = 2 * size(model) * claim.length * rate / TERA, peak_flops(*card).flops_per_s / TERA
        said = f"{figure(rate)} seq/s ({claim.table})"
        if needed > peak:
            over.append(f"{said} needs {needed:.0f} TFLOP/s of a card that has {peak:.0f}")
        else:
            within.append(said)
    ruled = f"Impossible: {'; '.join(over)}." if over else "None is above the peak of its card."
    return f"{ruled} Possible: {', '.join(within) or 'none of those with a card and a length'}."


def _rates(model: str) -> Iterator[tuple[Claim, float]]:
    """Sequences per second, however they are written."""
    for claim in load():
        if claim.model not in (model, f"{model}_bfd"):
            continue
        if claim.metric == "inference_seqs_per_s":
            yield claim, claim.value
        elif claim.metric == "inference_ms_per_seq":
            yield claim, 1000 / claim.value


def below_floor(words: str) -> str:
    """Bytes of the weights alone against the memory claimed; GB read as 2^30 bytes, to the claims' advantage.

    Args: words: model and mode (inference or training); training counts AdamW in fp32, 16 bytes a weight.
    """
    model, mode = words.split()
    below, above = [], []
    for claim in load():
        if claim.metric != "peak_memory_gb" or claim.model not in (model, f"{model}_bfd") or claim.mode != mode:
            continue
        width = ADAMW_BYTES if mode == "training" else BYTES.get(claim.precision, min(BYTES["fp16"], 4))
        floor = size(model) * width / GIB
        said = f"{claim.text} ({claim.table}{', ' + claim.precision if claim.precision else ''})"
        (below if claim.value < floor else above).append(said)
    floors = _floors(model, mode)
    ruled = f"below the floor: {', '.join(below)}" if below else "none is below the floor of its precision"
    return f"{floors}; {ruled}; above it: {', '.join(above) or 'none'}."


def _floors(model: str, mode: str) -> str:
    if mode == "training":
        return f"Weights, gradients and AdamW's moments take {size(model) * ADAMW_BYTES / GB:.2f} GB in fp32"
    return f"Weights alone take {size(model) * 4 / GB:.2f} GB in fp32, {size(model) * 2 / GB:.2f} GB in 16 bits"


def batch_hides(words: str) -> str:
    """Rates of one model by batch: what a batch explains."""
    found = [f"{figure(rate)} seq/s ({claim.table}, {claim.conditions})" for claim, rate in _rates(words)]
    return f"As written: {'; '.join(dict.fromkeys(found))}."


def rate_times_hours(_: str) -> str:
    """t35: rate and hours of 10 million sequences."""
    parts = []
    for hours in claimed("t35", metric="total_processing_hours"):
        (rate,) = claimed("t35", model=hours.model, metric="inference_seqs_per_s")
        real = 1e7 / (hours.value * HOUR_S)
        parts.append(
            f"{hours.value:g} h make {real:.1f} seq/s, written {figure(rate.value)} ({rate.value / real:.1f}x)"
        )
    return f"10 million sequences in {'; in '.join(parts)}."


def per_device(_: str) -> str:
    """t35's node of eight cards against one card."""
    (rate,) = claimed("t35", model="pytorch_dataloader_nccl", metric="inference_seqs_per_s")
    (hours,) = claimed("t35", model="pytorch_dataloader_nccl", metric="total_processing_hours")
    return (
        f"{figure(rate.value)} / 8 = {rate.value / 8:.0f} seq/s a card as written, but its own hours give "
        f"{1e7 / (hours.value * HOUR_S) / 8:.0f}; one card is claimed at 680 (t15) and 185 (t44)."
    )


def relative_speed(_: str) -> str:
    """t44's last column from its own rates."""
    rates = {claim.model: claim.value for claim in claimed("t44", metric="inference_seqs_per_s")}
    gaps = [
        abs(rates[claim.model] / rates["esm2_3b"] / claim.value - 1)
        for claim in claimed("t44", metric="relative_speed_vs_esm2_3b")
    ]
    return f"Recomputed from the rates, the column differs by at most {100 * max(gaps):.0f} %: rounding."


def constant_ratio(_: str) -> str:
    """t46: training over inference memory."""
    pairs = _training_over_inference()
    ratios = ", ".join(f"{ratio:.1f}" for ratio in pairs)
    return (
        f"The ratios are {ratios}. Gradients and two moments add 12 bytes to the 4 of a weight in fp32, so 4.0 before "
        "any activation: the column is a rule, not a measurement."
    )


def _training_over_inference() -> list[float]:
    memory = claimed("t46", metric="peak_memory_gb")
    inference = {(c.model, c.precision): c.value for c in memory if c.mode == "inference"}
    return [c.value / inference[c.model, c.precision] for c in memory if c.mode == "training" and c.precision == "fp32"]


def above_card(_: str) -> str:
    """t19: memory against the card of the instance."""
    over = [c for c in claimed("t19", metric="peak_memory_gb") if c.value > V100_P3_GB]
    said = ", ".join(f"{c.model} {c.text}" for c in over)
    return f"The card of p3.2xlarge has {V100_P3_GB} GB; claimed are {said}."


def file_size(model: str) -> str:
    """Weights in fp32 on disk."""
    return f"{size(model):,} weights of 4 bytes take {size(model) * 4 / GB:.2f} GB."


def watts(_: str) -> str:
    """t26's energy over t25's time of one prediction."""
    times = {c.model: c.value for c in claimed("t25", metric="inference_ms_per_seq")}
    parts = []
    for claim in claimed("t26", metric="energy_kwh_per_1k"):
        if claim.model in times:
            power = claim.value * 3.6e6 / times[claim.model]  # J a thousand over s a thousand
            parts.append(f"{claim.model} {power / 1000:.1f} kW ({power / A100_WATTS:.0f}x a {A100_WATTS} W card)")
    return f"Energy over time gives {', '.join(parts)}: impossible on one card."


def total_per_million(_: str) -> str:
    """t50: rate times hours, and what it says per million."""
    parts = []
    for total in claimed("t50", metric="total_cost_usd"):
        (written,) = claimed("t50", model=total.model, metric="usd_per_1m_seqs")
        parts.append(f"{figure(total.value)} USD for 1M, written {written.value:.2f} a million")
    return f"{'; '.join(parts)}: the last column is ten times too low."


def sequences_of_run(_: str) -> str:
    """t50: rate times hours in sequences."""
    rates = {c.model: c.value for c in claimed("t50", metric="inference_seqs_per_s")}
    hours = {c.model: c.value for c in claimed("t50", metric="total_processing_hours")}
    parts = [f"{rates[m] * hours[m] * HOUR_S / 1e6:.2f}M ({figure(rates[m])} seq/s, {hours[m]:g} h)" for m in rates]
    return f"Of one million: {', '.join(parts)}."


def residue_price(_: str) -> str:
    """t13 against t50 at 350 residues a sequence."""
    (total,) = [c for c in claimed("t50", metric="total_cost_usd") if c.model.startswith("aws")][:1]
    (residues,) = claimed("t13", model="protbert_bfd", metric="usd_per_1m_residues")
    mine = total.value / 350
    return (
        f"t50's total of {total.value:g} USD per 1M sequences is {mine:.3f} USD per 1M residues at 350 a sequence; t13 "
        f"says {residues.value:g}, {residues.value / mine:.0f}x."
    )


def token_price(_: str) -> str:
    """t39: price of a token times tokens per second."""
    (rate,) = claimed("t39", model="1x_a100-40gb", metric="train_tokens_per_s")
    (usd,) = claimed("t39", model="1x_a100-40gb", metric="usd_per_1m_tokens")
    hourly = usd.value * rate.value * HOUR_S / 1e6
    (lambda_price,) = claimed("t50", model="lambda_1x_a100", metric="usd_per_hour")
    return (
        f"{usd.value:g} USD per 1M tokens at {figure(rate.value)} tokens/s is {hourly:.2f} USD an hour for one A100; "
        f"t50 pays {lambda_price.value:g}, {hourly / lambda_price.value:.1f}x less."
    )


def efficiencies(_: str) -> str:
    """t39: throughput over cards and the throughput of one."""
    (one,) = claimed("t39", model="1x_a100-40gb", metric="train_tokens_per_s")
    parts = []
    for model, count in (("2x_a100_nvlink", 2), ("4x_v100-32gb", 4), ("2x_rtx_4090", 2)):
        (rate,) = claimed("t39", model=model, metric="train_tokens_per_s")
        (said,) = claimed("t39", model=model, metric="scaling_efficiency")
        parts.append(f"{model} {100 * rate.value / count / one.value:.1f} %, written {said.value:g}")
    return f"Against one A100: {'; '.join(parts)}. Only the first divides by cards of the same kind."


def layer_rates(_: str) -> str:
    """t42 against the A100's peaks."""
    from plmft.efficiency.flops import peak_flops

    (first, *rest) = claimed("t42", metric="tflops")
    card = CARDS["a100"][0]
    fp32, tf32 = (peak_flops(card, kind).flops_per_s / TERA for kind in ("fp32", "tf32"))
    return (
        f"{first.value:g} TFLOP/s as fp32 is above the {fp32:g} of the card: it needs TF32 (up to {tf32:g}). The gain "
        f"of bf16 written as 2x is {rest[0].value / first.value:.1f}x by the table's own figures."
    )


def training_flops(_: str) -> str:
    """6·N·D of ESM-2 against the claims."""
    ours = ", ".join(f"{m} {NUCLEAR * size(m) * PRETRAINING_TOKENS:.1e}" for m in ("esm2_650m", "esm2_15b"))
    claims = [c for table in ("t13", "t25") for c in claimed(table, metric="training_flops")]
    said = ", ".join(f"{c.model} {c.value:.1e} ({c.table})" for c in claims)
    return f"6·N·D for 1T tokens: {ours}. Claimed: {said}."


def steps_per_day(_: str) -> str:
    """t15 in tokens per second."""
    parts = [f"{c.model} {c.value * 1000 * 8 * 512 / DAY_S:,.0f}" for c in claimed("t15", metric="train_steps_per_day")]
    return f"At batch 8 and 512 residues, in tokens per second: {', '.join(parts)}."


def sizes(words: str) -> str:
    """Weights of two models: the smaller one holds fewer bytes at equal precision."""
    names = words.split()
    said = ", ".join(f"{name} {size(name) / 1e6:.0f}M" for name in names)
    return f"{said}: {size(names[0]) / size(names[1]):.2f}x the weights, so about as many times the work and bytes."


def registered(words: str) -> str:
    """What conf/model says of a model. Args: words: model, then fields of its file."""
    model, *fields = words.split()
    return f"{model}: {', '.join(f'{name} {_value(spec(model)[name])}' for name in fields)} (conf/model/{model}.yaml)."


def _value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


CHECKS: dict[str, Callable[[str], str]] = {
    one.__name__: one
    for one in (
        above_peak, below_floor, batch_hides, rate_times_hours, per_device, relative_speed, constant_ratio, above_card,
        file_size, watts, total_per_million, sequences_of_run, residue_price, token_price, efficiencies, layer_rates,
        training_flops, steps_per_day, sizes, registered,
    )
}  # fmt: skip


def computed(checks: str) -> list[str]:
    """Sentences of checks that are parted by `;`, each a name and its words."""
    found: Sequence[tuple[str, str, str]] = [text.strip().partition(" ") for text in checks.split(";") if text.strip()]
    return [CHECKS[name](words) for name, _, words in found]
