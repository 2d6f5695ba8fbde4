"""Energies of an independent mapper (ZigZag) for convolution layers in all three passes, as JSON lines.

Runs in an environment of its own:  pip install zigzag-dse six
    python benchmarks/hw_zigzag_reference.py tpu_like eyeriss_like > reference.jsonl
    python benchmarks/hw_zigzag_reference.py --lpf=6 edge_tpu_like >> reference.jsonl
An architecture is one that ZigZag ships, or the path of a YAML like theirs.
ZigZag knows no training: the two backward passes are written as einsums of their own, with the spatial
unrolling of `UNROLL`. `benchmarks/hw_zigzag.py` compares the result with `hw_models`.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

# name, C, K, P = Q, R = S, stride (ResNet-18's distinct convolutions; H = P stride)
LPF = 7  # loop factors; of ZigZag's default, 6, mappings on eyeriss_like get worse, on edge_tpu_like none was seen to
LAYERS = [
    ("conv1", 3, 64, 112, 7, 2), ("layer1", 64, 64, 56, 3, 1), ("layer2.0.conv1", 64, 128, 28, 3, 2),
    ("layer2.down", 64, 128, 28, 1, 2), ("layer2", 128, 128, 28, 3, 1),
    ("layer3.0.conv1", 128, 256, 14, 3, 2), ("layer3.down", 128, 256, 14, 1, 2),
    ("layer3", 256, 256, 14, 3, 1), ("layer4.0.conv1", 256, 512, 7, 3, 2), ("layer4.down", 256, 512, 7, 1, 2),
    ("layer4", 512, 512, 7, 3, 1), ("fc", 512, 1000, 1, 1, 1),
]
# what each dimension of the array unrolls, by pass; the profiles in hw_profiles say the same in our terms
K_BY_C = dict.fromkeys(("forward", "input_gradient", "weight_gradient"), ("K", "C"))
UNROLL = {"edge_tpu_like": {"forward": ("K", "C", "OX", "OY"), "input_gradient": ("C", "K", "OX", "OY"),
                            "weight_gradient": ("K", "OY", "C", "C")}}


def einsum(name: str, c: int, k: int, p: int, r: int, stride: int, which: str, batch: int) -> dict:
    """One pass of one convolution in ZigZag's workload format, 8-bit operands and 16-bit sums."""
    common = {"id": 0, "name": f"{name}-{which}", "operator_type": "Conv",
              "operand_precision": {"W": 8, "I": 8, "O": 16, "O_final": 8}, "operand_source": {"I": 0, "W": 0}}
    if which == "forward":
        return {**common, "equation": "O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
                "dimension_relations": [f"ix={stride}*ox+1*fx", f"iy={stride}*oy+1*fy"],
                "loop_dims": ["B", "K", "C", "OY", "OX", "FY", "FX"], "loop_sizes": [batch, k, c, p, p, r, r]}
    if which == "input_gradient":  # stride 1 only exact; a strided one is the same work over the coarse grid
        taps = max(1, round(r / stride))
        h = p * stride
        return {**common, "equation": "O[b][c][oy][ox]+=W[k][c][fy][fx]*I[b][k][iy][ix]",
                "dimension_relations": ["ix=1*ox+1*fx", "iy=1*oy+1*fy"],
                "loop_dims": ["B", "C", "K", "OY", "OX", "FY", "FX"], "loop_sizes": [batch, c, k, h, h, taps, taps]}
    return {**common, "equation": "O[k][c][fy][fx]+=W[b][k][oy][ox]*I[b][c][iy][ix]",
            "dimension_relations": [f"ix={stride}*ox+1*fx", f"iy={stride}*oy+1*fy"],
            "loop_dims": ["B", "K", "C", "OY", "OX", "FY", "FX"], "loop_sizes": [batch, k, c, p, p, r, r]}


def spatial(names: tuple[str, ...], sizes: list[int], loops: dict[str, int]) -> dict[str, list[str]]:
    """ZigZag's spatial mapping: each array dimension unrolls its loop as far as the loop lasts."""
    left, found = dict(loops), {}
    for i, (name, size) in enumerate(zip(names, sizes, strict=True), 1):
        factor = min(size, left[name])
        left[name] = -(-left[name] // factor)
        found[f"D{i}"] = [f"{name}, {factor}"]
    return found


def main(chips: list[str], lpf: int = LPF, batch: int = 1) -> None:
    import yaml
    import zigzag
    from zigzag.api import get_hardware_performance_zigzag

    logging.disable(logging.CRITICAL)
    home = Path(zigzag.__file__).parent / "inputs"
    for chip in chips:
        hardware = Path(chip) if chip.endswith(".yaml") else home / "hardware" / f"{chip}.yaml"
        data = yaml.safe_load(hardware.read_text())
        sizes = data["operational_array"]["sizes"]
        for layer in LAYERS:
            for which in ("forward", "input_gradient", "weight_gradient"):
                if layer[0] == "conv1" and which == "input_gradient":
                    continue
                spec = einsum(*layer, which, batch)
                dims = dict(zip(spec["loop_dims"], spec["loop_sizes"], strict=True))
                unroll = spatial(UNROLL.get(chip, K_BY_C)[which], sizes, dims)
                mapping = [{"name": "default", "spatial_mapping": unroll,
                            "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}]
                with tempfile.TemporaryDirectory() as tmp:
                    for name, content in (("work", [spec]), ("map", mapping)):
                        Path(tmp, f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
                    start = time.perf_counter()
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        energy, latency, cmes = get_hardware_performance_zigzag(
                            f"{tmp}/work.yaml", str(hardware), f"{tmp}/map.yaml", opt="energy",
                            dump_folder=f"{tmp}/out", lpf_limit=lpf,
                            loma_show_progress_bar=False)
                cme = cmes[0][1][0][0]
                row = {"chip": hardware.stem, **dict(zip(("layer", "c", "k", "p", "r", "stride"), layer, strict=True)),
                       "pass": which, "batch": batch, "lpf": lpf, "energy": energy, "latency": latency,
                       "mac": cme.mac_energy, "seconds": round(time.perf_counter() - start, 2),
                       "memory": {str(op): [float(v) for v in vs] for op, vs in cme.mem_energy_breakdown.items()}}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    given = [a for a in sys.argv[1:] if not a.startswith("--lpf=")]
    main(given or ["tpu_like", "eyeriss_like"], *(int(a[6:]) for a in sys.argv[1:] if a not in given))
