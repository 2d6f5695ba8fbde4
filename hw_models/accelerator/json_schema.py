"""JSON Schema (draft 2020-12) of an accelerator file, for editors: completion, descriptions and errors while typing.

It says what a single key may be; rules between keys (an inner memory must be smaller than the outer one) are checked
by `hw check`. docs/accelerator-file.md describes the keys.
"""

from __future__ import annotations

from typing import Any

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

_NUMBER: Schema = {"type": "number", "minimum": 0}
_TEXT: Schema = {"type": "string", "minLength": 1}
_CITED: Schema = {
    "source": {**_TEXT, "description": "Where the numbers come from."},
    "band": {"type": "number", "minimum": 1, "description": "Factor x/÷ of the 90 % credible interval."},
    "derived": {"type": "boolean", "description": "Computed from published values, not published itself."},
}
_FORMATS = ("fp32", "tf32", "bf16", "fp16", "e4m3", "e5m2", "int32", "int16", "int8", "int4", "int2", "bfp8", "bfp4")
_FUSED = ("bn", "relu", "activation", "maxpool", "avgpool", "add", "mul", "concat", "select", "dropout", "loss",
          "other", "norm", "scale")  # fmt: skip
_LAWS = ("cacti-45hp", "cacti-45lop", "cacti-22hp", "cacti-22lop")


def _object(properties: Schema, description: str = "", **more: Any) -> Schema:
    told = {"description": description} if description else {}
    return {"type": "object", **told, "properties": {**properties, **_CITED}, "additionalProperties": False, **more}


def _constant(unit: str) -> Schema:
    cited = {"value": _NUMBER, **_CITED}
    whole = {"type": "object", "properties": cited, "required": ["value"], "additionalProperties": False}
    return {"description": unit, "anyOf": [_NUMBER, whole]}


def _plain(description: str, **more: Any) -> Schema:
    return {"description": description, **(more or _NUMBER)}


def _by_format(one: Schema, description: str) -> Schema:
    return _object(dict.fromkeys(_FORMATS, one), description)


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _memory() -> Schema:
    return _object(
        {
            "kib": _plain("KiB (1,024 bytes): capacity."),
            "read_pj_per_bit": _constant("pJ per bit of a read."),
            "write_pj_per_bit": _constant("pJ per bit of a write."),
            "sram_law": _plain("Both energies from kib and access_bits, by a CACTI fit.", enum=list(_LAWS)),
            "access_bits": _plain("Width of one access; used by sram_law."),
            "leakage_w_per_mib": _constant(
                "W per MiB of cells that hold data; default: what sram_law says of its cells."
            ),
            "least_access_bits": _plain("Fewest bits that one access moves."),
            "bits_per_cycle": _plain("Bandwidth of one port to the array's side, for the time only."),
            "read_bits_per_cycle": _plain("Bandwidth of a read port; with write_bits_per_cycle, for bits_per_cycle."),
            "write_bits_per_cycle": _plain("Bandwidth of a write port; with read_bits_per_cycle."),
            "double_buffer": _plain("Half of it fills while the other half is read.", type="boolean"),
            "holds": {**_list({"enum": ["streaming", "held", "sums"]}), "description": "Operands it keeps."},
            "slides": _plain("Overlapping rows stay when the window moves on (search only).", type="boolean"),
        },
        "A memory between DRAM and the array; list them innermost first.",
    )


def _dataflow() -> Schema:
    loops = {"type": "array", "items": {"enum": list("NKCPQRS")}, "minItems": 7, "maxItems": 7, "uniqueItems": True}
    level = {
        "description": "At a level (a memory, registers): the operand that stays, or all loops, outermost first.",
        "anyOf": [{"enum": ["streaming", "held", "sums"]}, loops],
    }
    passes = {name: {"type": "object", "additionalProperties": level}
              for name in ("forward", "input_gradient", "weight_gradient")}  # fmt: skip
    return {"type": "object", "description": "Stationarity and loop order; what is left out is searched.",
            "properties": {**passes, **_CITED}, "additionalProperties": level}  # fmt: skip


def _operand() -> Schema:
    return _object(
        {
            "bits": _plain("Bits per multiplier; 0: a word passes by."),
            "pj_per_bit": _constant("pJ per bit of one access."),
            "shared_along": {**_list({"type": "integer", "minimum": 1}), "description": "One serves all along these."},
        }
    )


def accelerator_schema() -> Schema:
    """The schema of an accelerator file of either kind."""
    fused = {**_list({"enum": list(_FUSED)}), "description": "Pointwise rows whose tensors cause no traffic."}
    loops = _list({"enum": ["N", "K", "C", "P", "Q", "R", "S"]})
    unrolled = _list({"anyOf": [{"enum": ["K", "C", "pixels"]}, loops]})
    top: Schema = {
        "schema": _plain("Version of this format.", const=1),
        "extends": _plain("Start from a shipped profile or another file.", **_TEXT),
        "name": _plain("What reports call it.", **_TEXT),
        "kind": _plain("Counted operations and memories, or a calibrated GPU.", enum=["array", "device"]),
        "summary": _plain("One line for lists.", **_TEXT),
        "source": _plain("Where geometry, clock and node come from.", **_TEXT),
        "node_nm": _plain("Process node in nm.", type="number", minimum=1, maximum=1000),
        "clock_ghz": _plain("GHz of array and buffers."),
        "absolute_band": _plain("Factor x/÷ of all energies together (90 %).", type="number", minimum=1),
        "formats": {**_list({"enum": [*_FORMATS, "fp", "int", "bfp"]}), "description": "What the chip multiplies."},
        "calibrated_on": _plain("Measurements that a device was fitted to.", **_TEXT),
        "rails": _plain("What its measured energy covers.", **_TEXT),
        "mac": _by_format(_constant("pJ per MAC."), "pJ of a multiply and accumulate, by format."),
        "pj_per_flop": _by_format(_constant("pJ per FLOP (a MAC is two)."), "A device's energy without DRAM and idle."),
        "op": _object(
            {name: _constant("pJ per operation.") for name in ("add", "multiply", "compare", "integer", "random")},
            "The vector unit.",
        ),
        "speedup": _by_format(_plain("Products per multiplier and cycle."), "Narrow formats that run faster."),
        "array": _object(
            {
                "dims": {**_list({"type": "integer", "minimum": 1}), "minItems": 1, "maxItems": 4},
                "forward": unrolled, "input_gradient": unrolled, "weight_gradient": unrolled,
                "fill_cycles": _plain("Cycles until the first result of a tile leaves the array."),
                "zero_skip": _plain("Zeros inserted by a stride are not multiplied.", type="boolean"),
                "fused": fused,
            },
            "Multipliers along each dimension, and what each dimension unrolls in each pass.",
        ),
        "registers": _object(dict.fromkeys(("streaming", "held", "sums"), _operand()), "What stays at a multiplier."),
        "network": _object({"pj_per_bit": _constant("pJ per bit.")}, "From the innermost memory to the array."),
        "memory": {
            "type": "object", "description": "Memories by name, innermost first.", "additionalProperties": _memory()
        },
        "dataflow": _dataflow(),
        "dram": _object(
            {
                "pj_per_bit": _constant("pJ per bit, either way."),
                "read_pj_per_bit": _constant("pJ per bit from DRAM; with write_pj_per_bit, for pj_per_bit."),
                "write_pj_per_bit": _constant("pJ per bit to DRAM; with read_pj_per_bit."),
                "gbytes_per_s": _plain("GB/s that are reached."),
                "burst_bytes": _plain("Bytes of a burst: the fewest that DRAM moves (search only)."),
            }
        ),
        "static": _object({"watts": _constant("W of idle power, over the roofline time.")}),
        "device": _object(
            {
                "peak_tflops": _by_format(_NUMBER, "Peak without sparsity."),
                "eta_compute": _plain("Share of the peak that networks reach.", type="number", maximum=1),
                "eta": _by_format({"type": "number", "maximum": 1}, "The same for one format."),
                "half_batch": _plain("Images at which a step takes twice as long per image."),
                "launch_us": _plain("µs added to each row and pass."),
                "fused": fused,
            },
            "A calibrated GPU.",
        ),
    }  # fmt: skip
    return {
        "$schema": DRAFT, "title": "ebsim accelerator", "type": "object", "properties": top,
        "additionalProperties": False,
    }  # fmt: skip
