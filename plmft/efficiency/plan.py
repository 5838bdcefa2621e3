"""How much memory a training step takes, by formula, before anything is loaded. Costs arithmetic alone.

A micro-step holds T tokens; S is the sum of its sequences' squared lengths, L the longest. The network has width D,
feed-forward width F, H heads; e is 2 bytes in half precision, else 4. GB is 10⁹ bytes. The terms, in bytes:

- weights: 4 each. Of matrix products that don't learn: 2 with bf16_weights, 4.5 bits in QLoRA.
- gradients: 4 for a weight that learns. optimizer: 8 (two moments of AdamW, Loshchilov & Hutter 2019).
- copies: what autocast makes of the products' weights and the graph keeps, 2 for each weight of a layer that gradients
  pass; in fp32 the joined matrix of query, key and value, 4·3·D².
- activations: for each layer that gradients pass, what its backward pass reads (`layer_activations`). With gradient
  checkpointing each layer keeps its input, 4·T·D, and one layer at a time all of it.
- working: what lives only while one layer is computed (`working_bytes`).
- head: what head and loss hold, given by the caller. They are done before the backbone's backward pass begins, so the
  larger of head and working counts.
- heap: on a CPU, holes in glibc's heap. Each layer frees vectors of 12·T·D (norms and what is added to the residual
  stream) and, by plain products, the scores e·H·S; what is kept next lies down in their place, so that the next ones
  need new memory: a part of them for each layer (`heap_bytes`).
- fixed: the CUDA context, or Python and the libraries, given by the caller.

Gradients come into being while activations go, so a step of one micro-step holds the larger of the two sums; from the
second micro-step on, and where processes share them, both are held.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

GB = 1e9
FOUR_BIT_BYTES = 4.5 / 8  # NF4 with a float32 scale for 64 weights
HALF = ("bf16", "fp16", "bf16_weights")
HOLES = 0.45  # measured: benchmarks.memory_grid
EXCHANGED = 1 << 24  # gradients that DDP sums over processes at a time

Kernel = Literal["matmul", "compiled", "flash"]


@dataclass(frozen=True)
class Network:
    """A transformer encoder's sizes. parameters: of the whole backbone, as published."""

    layers: int
    width: int
    heads: int
    feedforward: int
    parameters: int

    @property
    def products(self) -> int:
        """Weights of one layer's matrix products: 4·D² of attention, 2·D·F of the feed-forward part."""
        return 4 * self.width**2 + 2 * self.width * self.feedforward


@dataclass(frozen=True)
class Learns:
    """What learns.

    Args:
        backbone: weights of the backbone that learn, adapters included. added: of them, those that a tuning adds.
        head: weights of the head.
        layers: of the backbone, that gradients pass through, from the last.
        attention_inputs, feedforward_inputs: whether these products keep their inputs, for gradients of weights.
        products: True if the products' own weights learn.
        four_bit: the products' weights are held in four bits.
        ranks: sum over a layer's adapters of their ranks.
        apart: query, key and value are adapted one by one and keep an input each (DoRA, and beside four-bit weights).
        dora_outputs, dora_inputs: sums over a layer's DoRA adapters of their products' outputs, and of squared inputs.
    """

    backbone: int
    head: int
    layers: int
    attention_inputs: bool = False
    feedforward_inputs: bool = False
    products: bool = False
    four_bit: bool = False
    added: int = 0
    ranks: int = 0
    apart: bool = False
    dora_outputs: int = 0
    dora_inputs: int = 0

    @property
    def weights(self) -> int:
        """All that learn."""
        return self.backbone + self.head


@dataclass(frozen=True)
class MicroStep:
    """What one pass holds. alone: it is the only one of its optimizer step."""

    lengths: tuple[int, ...]
    alone: bool = False

    @property
    def tokens(self) -> int:
        """T."""
        return sum(self.lengths)

    @property
    def squares(self) -> int:
        """S."""
        return sum(length**2 for length in self.lengths)


@dataclass(frozen=True)
class Numerics:
    """How it is computed. kernel: of attention; flash is the GPU's for sequences of varying length."""

    precision: str
    kernel: Kernel
    checkpointing: bool = False

    @property
    def bytes(self) -> int:
        """e."""
        return 2 if self.precision in HALF else 4


@dataclass(frozen=True)
class Sharing:
    """How processes share what they hold (Rajbhandari et al. 2020, ZeRO; FSDP shards as zero3 does)."""

    strategy: str = "single"
    processes: int = 1
    offload: bool = False

    def holds(self, what: Literal["optimizer", "gradients", "weights"]) -> float:
        """The share of it that stays on one device."""
        stage = {"zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3}.get(self.strategy, 0)
        needed = {"optimizer": 1, "gradients": 2, "weights": 3}[what]
        if stage < needed:
            return 1.0
        if self.offload and (what == "optimizer" or (what == "weights" and stage == 3)):
            return 0.0  # in host memory
        return 1 / self.processes


@dataclass(frozen=True)
class Memory:
    """Bytes by term. both: gradients and activations are held at once."""

    weights: float
    gradients: float
    optimizer: float
    copies: float
    activations: float
    working: float
    head: float
    heap: float
    fixed: float
    both: bool

    @property
    def terms(self) -> dict[str, float]:
        """The terms by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "both"}

    @property
    def dynamic(self) -> float:
        """What comes and goes within a step: the head is done when the backbone's backward pass begins."""
        passing = self.copies + self.activations + max(self.working, self.head)
        return passing + self.gradients if self.both else max(passing, self.gradients)

    @property
    def total(self) -> float:
        """The peak."""
        return self.fixed + self.heap + self.weights + self.optimizer + self.dynamic


def training_memory(
    network: Network,
    learns: Learns,
    micro: MicroStep,
    numerics: Numerics,
    *,
    sharing: Sharing | None = None,
    head: float = 0.0,
    fixed: float = 0.0,
) -> Memory:
    """The peak of one device (or process) in training.

    Args:
        head: bytes that the head's backward pass reads. fixed: bytes that are there before and after.
    """
    sharing = sharing or Sharing()
    gathered, exchanged = 0.0, min(EXCHANGED, learns.weights) if sharing.strategy == "ddp" else 0
    if sharing.holds("weights") < 1:  # a layer's weights while it is computed, and the next one's
        gathered = 2 * network.products * numerics.bytes
    layer = layer_activations(network, learns, micro, numerics)
    copies = layer_copies(network, learns, numerics)
    kept = learns.layers * 4.0 * micro.tokens * network.width + layer if numerics.checkpointing else None
    return Memory(
        weights=weights_bytes(network, learns, numerics) * sharing.holds("weights") + gathered,
        gradients=4.0 * (learns.weights * sharing.holds("gradients") + exchanged),
        optimizer=8.0 * learns.weights * sharing.holds("optimizer"),
        copies=copies * (min(1, learns.layers) if numerics.checkpointing else learns.layers),
        activations=kept if kept is not None and learns.layers else learns.layers * layer,
        working=working_bytes(network, learns, micro, numerics),
        head=head,
        heap=heap_bytes(network, learns, micro, numerics),
        fixed=fixed,
        both=not micro.alone or sharing.strategy != "single",
    )


def weights_bytes(network: Network, learns: Learns, numerics: Numerics) -> float:
    """Of backbone, adapters and head."""
    products = (network.layers - (learns.layers if learns.products else 0)) * network.products
    each = 4.0
    if learns.four_bit:
        each = FOUR_BIT_BYTES
    elif numerics.precision == "bf16_weights":
        each = 2.0
    return 4.0 * (network.parameters - products + learns.added + learns.head) + each * products


def layer_activations(network: Network, learns: Learns, micro: MicroStep, numerics: Numerics) -> float:
    """What the backward pass of one layer reads.

    T · (8·D + 3·e·D + e·F): the inputs of both norms in fp32; query, key and value; the input of GELU.
    + T · 2·e·D and T · (e·D + e·F), the inputs of attention's and of the feed-forward part's products, where these or
      their adapters learn; + T · e · (sum of ranks).
    + T · 2·e·D where query, key and value are adapted one by one; + T · (e + 4) · outputs of DoRA's products.
    + attention's own: e·H·S probabilities where plain products compute it; e·T·D outputs and 4·T·H log-sums where a
      kernel computes them again; on a GPU the rotated query and key, too, 2·e·T·D.
    """
    tokens, width, wide, size = micro.tokens, network.width, network.feedforward, numerics.bytes
    by_token = 8.0 * width + 3 * size * width + size * wide + size * learns.ranks + 16
    if learns.attention_inputs:
        by_token += 2 * size * width
    if learns.feedforward_inputs:
        by_token += size * (width + wide)
    if learns.apart:
        by_token += 2 * size * width
    by_token += (size + 4) * learns.dora_outputs
    return tokens * by_token + attention_activations(network, learns, micro, numerics)


def attention_activations(network: Network, learns: Learns, micro: MicroStep, numerics: Numerics) -> float:
    """See layer_activations."""
    size = numerics.bytes
    if numerics.kernel == "matmul":
        return float(size * network.heads * micro.squares)
    outputs = 0 if learns.attention_inputs else size * network.width  # else they are the next product's inputs
    rotated = 2 * size * network.width if numerics.kernel == "flash" else 0
    return float(micro.tokens * (outputs + rotated + 4 * network.heads))


def layer_copies(network: Network, learns: Learns, numerics: Numerics) -> float:
    """Of the weights of one layer that gradients pass; DoRA's norms add an identity of each product's inputs."""
    if learns.four_bit:
        return 0.0
    joined = 3 * network.width**2
    if numerics.precision not in HALF:
        return 4.0 * joined
    held = numerics.precision == "bf16_weights" and not learns.products
    return 2.0 * (learns.dora_inputs + (joined if held else network.products))


def working_bytes(network: Network, learns: Learns, micro: MicroStep, numerics: Numerics) -> float:
    """What lives only while one layer is computed.

    - Where gradients pass: T·D·(12 + 2·e), the last norm's input and gradients of the layer's output and inside it; by
      plain products 8·T·D and two matrices e·H·L² instead, if that is more. DoRA in half precision: 12·T·F more.
    - Where none pass, the largest of: T·(12·D + 2·e·F), three hidden vectors in fp32 and the inner vectors before and
      after GELU; T·D·(8 + 7·e) + e·H·(2·L² + the next sequence's), query, key and value before and after rotation, the
      outputs, scores and probabilities; 18·D² + T·D·(8 + 4·e), the joined weights of query, key and value.
    """
    tokens, width, size = micro.tokens, network.width, numerics.bytes
    plain = numerics.kernel == "matmul"
    scores = size * network.heads * float(max(micro.lengths) ** 2) if plain else 0.0
    if learns.layers:
        dora = 12.0 * tokens * network.feedforward if learns.dora_outputs and size == 2 else 0.0
        return dora + max((12.0 + 2 * size) * tokens * width, 8.0 * tokens * width + 2 * scores)
    before = size * network.heads * float(sorted(micro.lengths)[-2:][0] ** 2) if plain and len(micro.lengths) > 1 else 0
    return max(
        tokens * (12.0 * width + 2 * size * network.feedforward),
        tokens * (8.0 + 7 * size) * width + 2 * scores + before,
        tokens * (8.0 + 4 * size) * width + 18.0 * width**2,
    )


def heap_bytes(network: Network, learns: Learns, micro: MicroStep, numerics: Numerics) -> float:
    """HOLES · (12·T·D + e·H·S) for each layer that keeps anything, and once for all others; not on a GPU.

    DoRA frees T · (e + 4) · outputs of its products, too. With gradient checkpointing each layer in turn frees all.
    """
    if numerics.kernel == "flash":
        return 0.0
    scores = numerics.bytes * network.heads * micro.squares if numerics.kernel == "matmul" else 0
    freed = (12.0 * network.width + (numerics.bytes + 4) * learns.dora_outputs) * micro.tokens + scores
    if numerics.checkpointing and learns.layers:
        return HOLES * (freed + layer_activations(network, learns, micro, numerics))
    return HOLES * freed * (learns.layers + (1 if learns.layers < network.layers else 0))
