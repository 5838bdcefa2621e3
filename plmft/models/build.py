"""From what a user chose to a Predictor: backbone with its weights, tuning, head."""

from plmft import InputError
from plmft.data.records import Kind
from plmft.models.backbone import BertBackbone, EsmBackbone, OneHotCnn
from plmft.models.head_spec import Head, SequenceHead
from plmft.models.predictor import Predictor
from plmft.models.scratch import OneHotBiLstm, OneHotResNet
from plmft.models.spec import Spec, TransformerSpec
from plmft.models.tuning import Tuning
from plmft.models.weights import Located, build, load

Backbone = EsmBackbone | BertBackbone | OneHotCnn | OneHotResNet | OneHotBiLstm


def build_backbone(spec: Spec, located: Located) -> Backbone:
    """The backbone with the weights that were located; random ones follow torch's seed."""
    if not isinstance(spec, TransformerSpec):
        return spec.build()
    network = build(spec) if located.source == "random" else load(spec, located)
    return BertBackbone(network) if spec.family == "bert" else EsmBackbone(network)


def build_predictor(spec: Spec, located: Located, *, tuning: Tuning, head: Head, kind: Kind, outputs: int) -> Predictor:
    """A Predictor ready to learn. Raises: InputError: the head does not fit the model."""
    if isinstance(head, SequenceHead) and head.pooling == "cls" and not spec.tokenizer.prefix:
        raise InputError(f"task.head.pooling=cls: {spec.name} has no first special token. Choose mean or attention.")
    backbone = build_backbone(spec, located)
    tuning.apply(backbone)
    predictor = Predictor(backbone, head.build(backbone.width, outputs, kind), kind)
    return predictor.train()  # loaded networks come in evaluation
