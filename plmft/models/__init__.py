"""Backbones, heads and ways of tuning them."""

import logging

# transformers and PEFT import these wherever they are installed, and each then warns about what it can't use here.
for _library in ("bitsandbytes", "torchao", "torch.utils._pytree"):
    logging.getLogger(_library).setLevel(logging.ERROR)
