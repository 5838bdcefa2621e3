"""From a run's parts to its plan: what learns, what its head holds, and how many tokens at once fit.

The formulas are in plmft.efficiency.plan; here they get their figures. Costs nothing that a user would notice: no model
is built, but the head without weights, to be counted.
"""

from plmft.data.records import Kind
from plmft.efficiency.plan import Learns, MicroStep, Network
from plmft.models.head_spec import Head, PairHead, ResidueHead, SequenceHead
from plmft.models.spec import TransformerSpec
from plmft.models.tuning import Bias, DoRA, Full, LastLayers, LoRA, QLoRA, Tuning


def network_of(spec: TransformerSpec) -> Network:
    """The sizes that the formulas need."""
    return Network(spec.layers, spec.width, spec.heads, spec.feedforward, spec.parameters)


def learns_of(spec: TransformerSpec, tuning: Tuning, head: Head, kind: Kind, outputs: int) -> Learns:
    """What learns. Raises: InputError: the head fits nothing."""
    weights = head_weights(spec, head, kind, outputs)
    width, wide = spec.width, spec.feedforward
    if isinstance(tuning, Full):
        return Learns(spec.parameters, weights, spec.layers, True, True, products=True)
    if isinstance(tuning, LastLayers):
        layer = network_of(spec).products + 9 * width + wide
        last_norm = 0 if spec.family == "bert" else 2 * width
        return Learns(tuning.layers * layer + last_norm, weights, tuning.layers, True, True, products=True)
    if isinstance(tuning, Bias):
        norms = 2 if spec.family == "esm1b" else 1  # beside those of the layers
        return Learns(spec.layers * (7 * width + wide) + norms * width, weights, spec.layers)
    if isinstance(tuning, LoRA):
        return _adapters(spec, tuning, weights)
    return Learns(0, weights, 0)


def _adapters(spec: TransformerSpec, tuning: LoRA, head: int) -> Learns:
    products = tuning.products(spec.width, spec.feedforward)
    layers = tuning.layers or spec.layers
    layer = sum(tuning.rank * (inputs + outputs) for inputs, outputs in products)
    dora = products if isinstance(tuning, DoRA) else []
    layer += sum(outputs for _, outputs in dora)
    return Learns(
        layers * layer,
        head,
        layers,
        attention_inputs="attention" in tuning.targets,
        feedforward_inputs="feedforward" in tuning.targets,
        four_bit=isinstance(tuning, QLoRA),
        added=layers * layer,
        ranks=tuning.rank * len(products),
        apart=isinstance(tuning, DoRA | QLoRA) and "attention" in tuning.targets,
        dora_outputs=sum(outputs for _, outputs in dora),
        dora_inputs=sum(inputs**2 for inputs, _ in dora),
    )


def head_weights(spec: TransformerSpec, head: Head, kind: Kind, outputs: int) -> int:
    """Weights of the head, which is built on no device."""
    import torch

    if not isinstance(head, SequenceHead | ResidueHead | PairHead):
        return 0
    with torch.device("meta"):
        return sum(weights.numel() for weights in head.build(spec.width, outputs, kind).parameters())


def head_bytes(spec: TransformerSpec, head: Head, micro: MicroStep, *, frozen: bool) -> float:
    """What head and loss hold, all in fp32, in vectors of 4·T·D:

    - two while the loss is computed, and one more, the last norm's input, where gradients pass on;
    - one more for learned attention over the residues, two for a maximum: what its backward pass reads;
    - for contacts one more, 4·T·rank features, and one block of pairs: 3·rank features for the loss and its gradient,
      and the middle layer three times.
    """
    from plmft.models.pair_head import PAIRS_PER_BLOCK

    vectors = 2 if frozen else 3
    if isinstance(head, PairHead):
        pairs = min(PAIRS_PER_BLOCK, max(micro.lengths) ** 2)
        block = 4.0 * pairs * (3 * head.rank + 3 * head.hidden)
        return 4.0 * micro.tokens * (vectors * spec.width + head.rank) + block
    more = {"attention": 1, "max": 2}.get(head.pooling, 0) if isinstance(head, SequenceHead) else 1
    return (vectors + more) * 4.0 * micro.tokens * spec.width
