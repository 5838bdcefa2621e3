"""README.md of an exported model: what it is, how it scored, how it is used, whose the weights are."""

from collections.abc import Iterator
from pathlib import Path

from plmft.exporting.rectangle import OUTPUTS
from plmft.models.tuned import Tuned
from plmft.tracking.model_of_run import summary_beside

PREDICTS = {
    "sequence_regression": "a number for each sequence",
    "sequence_classification": "a class for each sequence",
    "sequence_multilabel": "labels for each sequence",
    "residue_classification": "a class for each residue",
    "pair_classification": "a class for each pair of sequences",
    "contacts": "contacts between residues",
}


def write_card(tuned: Tuned, form: str, model: Path, run_id: str | None, folder: Path) -> None:
    """Write README.md.

    Args: form: as exported. model: the tuned model's folder; its run's summary.json may lie beside it.
    """
    lines = [*_about(tuned, run_id), *_scores(model), *USE[form](tuned), *_conditions(tuned)]
    (folder / "README.md").write_text("\n".join(lines) + "\n")


def _about(tuned: Tuned, run_id: str | None) -> Iterator[str]:
    made = tuned.description
    unit = f", in {made.unit}" if made.unit and not made.classes else ""
    yield f"# {made.spec.name}, tuned on {made.task}"
    yield ""
    yield f"Predicts {PREDICTS[made.kind]}{unit}. Tuning: {made.tuning.name}. Exported by plmft in float32."
    if made.classes:
        yield f"Classes, in the order of the outputs: {', '.join(made.classes)}."
    if getattr(made.spec, "init", "") == "random":
        yield "The network began with RANDOM weights, not with pretrained ones."
    if run_id:
        yield f"Its run: {run_id}."
    yield ""


def _scores(model: Path) -> Iterator[str]:
    summary = summary_beside(model)
    metrics = summary.get("metrics", {})
    rows = []
    for name, value in metrics.items():
        if name.startswith("test/") and f"{name}_ci_low" in metrics:
            low, high = metrics[f"{name}_ci_low"], metrics[f"{name}_ci_high"]
            rows.append(f"| {name} | {value:.3f} | {low:.3f} to {high:.3f} |")
    if rows:
        yield from ("| metric | value | 95 % interval |", "|---|---|---|", *rows, "")
    if summary.get("subset"):
        yield from ("Scored on a subset of the test set.", "")


def _use_folder(tuned: Tuned) -> Iterator[str]:
    if tuned.description.kind == "residue_classification":
        yield from (
            "`AutoModelForTokenClassification.from_pretrained(FOLDER)` gives scores of all tokens; those of special",
            "tokens mean nothing. All of it, from letters to classes, is in predict.py, which needs torch,",
            "transformers and safetensors:",
        )
    else:
        yield from (
            "`AutoModel.from_pretrained(FOLDER, add_pooling_layer=False)` gives the residues' vectors. No class of",
            "transformers has this head: its weights are in head.safetensors, what it does in predict.py, which needs",
            "torch, transformers and safetensors:",
        )
    yield from _predict_py(tuned)
    if tuned.description.spec.family != "bert":
        yield from ("The contact head of transformers itself (`predict_contacts`) was not tuned: it is all zeros.", "")


def _use_adapter(tuned: Tuned) -> Iterator[str]:
    base = "AutoModel.from_pretrained(BASE, add_pooling_layer=False)"
    yield from (
        f"`PeftModel.from_pretrained({base}, FOLDER)` gives the residues' vectors; BASE is",
        "`base_model_name_or_path` of adapter_config.json, at its `revision`, or the folder base/ where it is here.",
        "The head's weights are in head.safetensors, what it does in predict.py, which needs torch, transformers,",
        "peft and safetensors:",
    )
    yield from _predict_py(tuned)
    if tuned.description.tuning.name == "qlora":
        yield from ("Training held the base in four bits; here it is in float32, so predictions differ a little.", "")


def _predict_py(tuned: Tuned) -> Iterator[str]:
    yield from (
        "",
        "    python predict.py proteins.fasta > predictions.tsv",
        "",
        "It reads FASTA and names on stderr the records that it can't predict (exit code 1).",
        "",
    )
    if tuned.description.kind != "residue_classification":
        yield from _tensors(tuned)


def _tensors(tuned: Tuned) -> Iterator[str]:
    """The head by its tensors."""
    if tuned.description.kind == "contacts":
        yield from (
            "The head, for residues i and j 6 or more apart: p = project(layer_norm(x; norm)); features are p_i * p_j",
            "and |p_i - p_j|; score = output(gelu(hidden(features))) + separation[min(|i - j|, 63)]; sigmoid.",
        )
    else:
        pooling = tuned.description.head.pooling
        pair = "; pairs: sum, product and distance of both" if tuned.description.kind == "pair_classification" else ""
        norm = "; batch norm with `norm.*`" if tuned.description.head.normalize else ""
        last = "softmax"
        if tuned.description.kind == "sequence_regression":
            last = "times target_deviation plus target_mean (head.json)"
        elif tuned.description.kind == "sequence_multilabel":
            last = "sigmoid"
        yield f"The head: pooling by {pooling} over residues, not over special tokens{pair}{norm};"
        yield f"output(gelu(hidden(x))); {last}."
    yield ""


def _use_onnx(tuned: Tuned) -> Iterator[str]:
    yield from _rectangle(tuned, "model.onnx, for ONNX Runtime", "its metadata, key `plmft`,")
    yield from (
        "    import onnxruntime",
        '    session = onnxruntime.InferenceSession("model.onnx")',
        '    (found,) = session.run(None, {"input_ids": ids, "attention_mask": mask})',
        "",
    )


def _use_torch_export(tuned: Tuned) -> Iterator[str]:
    guards = "check_guards=False" if tuned.description.kind == "pair_classification" else ""  # for a single pair
    yield from _rectangle(tuned, "model.pt2, for torch.export.load", "its extra file `plmft.json`")
    yield from (
        "    import json, torch",
        '    files = {"plmft.json": ""}',
        f'    model = torch.export.load("model.pt2", extra_files=files).module({guards})',
        '    about = json.loads(files["plmft.json"])',
        "    found = model(ids, mask)",
        "",
    )


def _rectangle(tuned: Tuned, file: str, place: str) -> Iterator[str]:
    kind = tuned.description.kind
    shape = {"sequence_regression": "(N,)", "residue_classification": "(N, L, C)", "contacts": "(N, L, L)"}
    pairs = " The two sequences of a pair are neighbours." if kind == "pair_classification" else ""
    yield from (
        f"{file}: inputs `input_ids` and `attention_mask`, (N, L) int64, any N and L; padding stands last.{pairs}",
        f"Output: `{OUTPUTS.get(kind, 'probabilities')}`, {shape.get(kind, '(N, C)')} float32; what stands at special",
        f"tokens and padding means nothing. How letters become ids: {place} holds `letters`, `unknown`, `prefix`,",
        "`suffix`, `pad`, `longest`.",
        "",
    )


def _conditions(tuned: Tuned) -> Iterator[str]:
    spec = tuned.description.spec
    if tuned.description.windows:
        yield from (
            f"In plmft, sequences beyond {spec.context} residues were read in windows; what is here takes none.",
            "",
        )
    if getattr(spec, "citation", ""):
        yield f"The network: {spec.citation}"
    if getattr(spec, "licence", ""):
        yield f"Licence of its weights: {spec.licence}"


USE = {"huggingface": _use_folder, "adapter": _use_adapter, "onnx": _use_onnx, "torch_export": _use_torch_export}
