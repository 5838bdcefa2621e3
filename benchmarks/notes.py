"""What is said beside a row's figures: why a goal was missed, and what would be needed. Written by hand.

By row (`python -m benchmarks.peers --list` names them). `python -m benchmarks.peers --report` writes the page anew.
"""

NOTES: dict[str, str] = {
    "full": (
        "35M misses both ratios. Profile of its step (three steps of 2,040 tokens, two threads, compiled kernel):"
        " matrix products with weights 70 % (forward at some 0.9 TFLOP/s), attention 16 %, copies between fp32 "
        "and bf16 3 %, GELU 3 %, AdamW 2 %, norms and the rest 6 %. Were all but the products free, 35M would "
        "come to about 5×; 4× needs attention and all element-wise passes at less than half of their present "
        "time. The Trainer, too, spends most of its time in products at 35M, half of them on padding, so the "
        "ratio tends to the share of padding."
    ),
    "lora": ("35M: the rounds lie on either side of the goal. What was said of full tuning holds here, too."),
    "frozen": (
        "The epoch with the cache has a floor, some 1 ms a step: 0.3 ms is packing, the rest Lightning's loop, "
        "validation and the checkpoint. The backbone of 8M takes 3.3 s for these proteins, so that floor alone is"
        " 2 % of it. Larger models gain more, as 35M shows."
    ),
    "framework": (
        "At 8M the rounds scatter by more than the goal, so what the framework adds is measured where it shows, "
        "on a near-empty step: it is that step's difference, told in parts of an 8M step."
    ),
    "bound": (
        "The bound counts products with weights alone, at 4,096 tokens. With attention's own products, which are "
        "matrix products of the model as well, 35M stands above 70 %. A step of 2,040 tokens, as these batches of"
        " 8 give, is one micro-step; what is missing to the stricter reading is attention's backward pass (12 % "
        "of the step)."
    ),
    "growth": (
        "The loader's share is that of a model near to empty (a step of 35 ms): some 0.35 ms of packing and as "
        "much of Lightning's own bookkeeping. In a step of ESM-2 8M, 190 ms, it is a few per mille."
    ),
}
