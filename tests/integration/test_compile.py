"""Compiled layers compute what plain ones do, and a batch of other lengths does not compile anew."""

import numpy as np
import pytest
import torch
import torch._dynamo as dynamo

from tests.unit.networks import backbone, packed

LENGTHS = ([3, 30, 12], [30, 7], [9, 9, 9, 20, 1])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["esm2", "bert"])
def test_compiled_equals_plain_without_compiling_anew(family):
    dynamo.reset()
    model, rng = backbone(family), np.random.default_rng(0)
    batches = [packed(rng, family, lengths)[1] for lengths in LENGTHS]

    def outputs_and_gradients():
        model.zero_grad()
        outputs = [model(batch) for batch in batches]
        sum(out.square().sum() for out in outputs).backward()
        return outputs + [p.grad.clone() for p in model.parameters() if p.grad is not None]

    wanted = outputs_and_gradients()
    model.compile_layers(backend="aot_eager")
    dynamo.utils.counters.clear()
    with dynamo.config.patch(error_on_recompile=True):
        torch.testing.assert_close(outputs_and_gradients(), wanted)
    assert dynamo.utils.counters["stats"]["unique_graphs"] > 0
