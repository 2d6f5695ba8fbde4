"""int4 for ebsim: integers -7..7, one real scale per slice of dim 0 (output channel of a weight, sample otherwise).

And a backend that uses it: 4-bit weights, 8-bit activations and errors.
"""

from ebsim.precision import NumberFormat
from ebsim.precision.rounding import to_integer

INT4 = NumberFormat(
    name="int4", bits=4, mac="int:4", top=7, round=to_integer,
    scaling="absmax", scale_bits=32, block="row", about="symmetric 4-bit integers, -7..7",
)  # fmt: skip

W4A8 = {
    "about": "4-bit weights, 8-bit activations and errors",
    "weight": "int4",
    "activation": "int8",
    "error": "int8 stochastic",
    "output": "bf16",
    "accumulator": "int32",
    "rule": [
        {"layers": ["@first", "@last"], "weight": "fp32", "activation": "fp32", "error": "fp32"},
        {"layers": ["@last"], "output": "fp32"},
    ],
}
