"""Energies of an independent mapper (ZigZag) for convolution layers in all three passes, as JSON lines.

Runs in an environment of its own:  pip install zigzag-dse six
    python benchmarks/hw_zigzag_reference.py tpu_like eyeriss_like > reference.jsonl
    python benchmarks/hw_zigzag_reference.py --lpf=6 edge_tpu_like meta_prototype tesla_npu_like >> reference.jsonl
    python benchmarks/hw_zigzag_reference.py tpu_small >> reference.jsonl
    python benchmarks/hw_zigzag_reference.py --lpf=6 ascend_like >> reference.jsonl
    python benchmarks/hw_zigzag_reference.py --lpf=6 --batch=8 ascend_like >> reference.jsonl
    python benchmarks/hw_zigzag_reference.py --lpf=6 --opt=EDP eyeriss_like > by_edp.jsonl
    python benchmarks/hw_zigzag_reference.py --pieces=pieces.jsonl tpu_small > priced.jsonl
An architecture is one that ZigZag ships, one of `VARIANTS`, or the path of a YAML like theirs. With `--pieces`
(from `python -m benchmarks.hw_zigzag --pieces`) ZigZag's cost model prices our mappings instead of searching.
ZigZag knows no training: the two backward passes are written as einsums of their own, with the spatial
unrolling of `UNROLL`. `benchmarks/hw_zigzag.py` compares the result with `hw_models`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# name, C, K, P = Q, R = S, stride (ResNet-18's distinct convolutions; H = P stride)
LPF = 7  # loop factors; of ZigZag's default, 6, mappings on eyeriss_like get worse, on edge_tpu_like none was seen to
LAYERS = [
    ("conv1", 3, 64, 112, 7, 2),
    ("layer1", 64, 64, 56, 3, 1),
    ("layer2.0.conv1", 64, 128, 28, 3, 2),
    ("layer2.down", 64, 128, 28, 1, 2),
    ("layer2", 128, 128, 28, 3, 1),
    ("layer3.0.conv1", 128, 256, 14, 3, 2),
    ("layer3.down", 128, 256, 14, 1, 2),
    ("layer3", 256, 256, 14, 3, 1),
    ("layer4.0.conv1", 256, 512, 7, 3, 2),
    ("layer4.down", 256, 512, 7, 1, 2),
    ("layer4", 512, 512, 7, 3, 1),
    ("fc", 512, 1000, 1, 1, 1),
]
# what each dimension of the array unrolls, by pass; the profiles in hw_profiles say the same in our terms
K_BY_C = dict.fromkeys(("forward", "input_gradient", "weight_gradient"), ("K", "C"))
WITH_PIXELS = {
    "forward": ("K", "C", "OX", "OY"),
    "input_gradient": ("C", "K", "OX", "OY"),
    "weight_gradient": ("K", "OY", "C", "C"),
}
UNROLL = {
    "ascend_like": WITH_PIXELS,
    "edge_tpu_like": WITH_PIXELS,
    "meta_prototype": WITH_PIXELS,
    "tesla_npu_like": {
        "forward": ("K", "OX", "OY"),
        "input_gradient": ("C", "OX", "OY"),
        "weight_gradient": ("K", "C", "C"),
    },
}
VARIANTS = {"tpu_small": ("tpu_like", "sram_2MB", {"size": 64 * 8192, "r_cost": 120, "w_cost": 130})}
# the loops of g1, g2 and red in each pass (`hw_models.workload.training_passes`); batch 1 only
INDICES = {
    "forward": (("OX", "OY"), ("K",), ("FX", "FY", "C")),
    "input_gradient": (("OX", "OY"), ("C",), ("FX", "FY", "K")),
    "weight_gradient": (("FX", "FY", "C"), ("K",), ("OX", "OY")),
}


def einsum(name: str, c: int, k: int, p: int, r: int, stride: int, which: str, batch: int) -> dict:
    """One pass of one convolution in ZigZag's workload format, 8-bit operands and 16-bit sums."""
    common = {
        "id": 0,
        "name": f"{name}-{which}",
        "operator_type": "Conv",
        "operand_precision": {"W": 8, "I": 8, "O": 16, "O_final": 8},
        "operand_source": {"I": 0, "W": 0},
    }
    if which == "forward":
        return {
            **common,
            "equation": "O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
            "dimension_relations": [f"ix={stride}*ox+1*fx", f"iy={stride}*oy+1*fy"],
            "loop_dims": ["B", "K", "C", "OY", "OX", "FY", "FX"],
            "loop_sizes": [batch, k, c, p, p, r, r],
        }
    if which == "input_gradient":  # stride 1 only exact; a strided one is the same work over the coarse grid
        taps = max(1, round(r / stride))
        h = p * stride
        return {
            **common,
            "equation": "O[b][c][oy][ox]+=W[k][c][fy][fx]*I[b][k][iy][ix]",
            "dimension_relations": ["ix=1*ox+1*fx", "iy=1*oy+1*fy"],
            "loop_dims": ["B", "C", "K", "OY", "OX", "FY", "FX"],
            "loop_sizes": [batch, c, k, h, h, taps, taps],
        }
    return {
        **common,
        "equation": "O[k][c][fy][fx]+=W[b][k][oy][ox]*I[b][c][iy][ix]",
        "dimension_relations": [f"ix={stride}*ox+1*fx", f"iy={stride}*oy+1*fy"],
        "loop_dims": ["B", "K", "C", "OY", "OX", "FY", "FX"],
        "loop_sizes": [batch, k, c, p, p, r, r],
    }


def spatial(names: tuple[str, ...], sizes: list[int], loops: dict[str, int]) -> dict[str, list[str]]:
    """ZigZag's spatial mapping: each array dimension unrolls its loop as far as the loop lasts."""
    left, found = dict(loops), {}
    for i, (name, size) in enumerate(zip(names, sizes, strict=True), 1):
        factor = min(size, left[name])
        left[name] = -(-left[name] // factor)
        found[f"D{i}"] = [f"{name}, {factor}"]
    return found


def orderings(pieces: list[float], which: str, loops: dict[str, int]) -> Iterator[list[tuple[str, int]]]:
    """Temporal loops, innermost first, of a mapping that cuts g1, g2 and red into `pieces` tiles.

    The tiles and the loops around them are ours. How a tile's cut falls on its loops (rows or columns, say), and the
    order inside a tile, is tried in all ways that keep the rows of a window together.
    """
    cuts = []
    for count, names in zip(pieces, INDICES[which], strict=True):
        ways = [
            dict(zip(names, way, strict=True))
            for way in itertools.product(
                *([d for d in range(1, loops.get(n, 1) + 1) if loops.get(n, 1) % d == 0] for n in names)
            )
        ]
        sizes = sorted({math.prod(way.values()) for way in ways})
        near = {
            min((s for s in sizes if s >= count - 1e-6), default=sizes[-1]),
            max((s for s in sizes if s <= count + 1e-6), default=sizes[0]),
        }
        cuts.append([way for way in ways if math.prod(way.values()) in near])
    for outer in itertools.product(*cuts):
        around = [[(n, f) for n, f in way.items() if f > 1] for way in outer]
        inside = {n: size // next((way[n] for way in outer if n in way), 1) for n, size in loops.items()}
        units = [
            [(n, inside[n]) for n in unit if inside.get(n, 1) > 1]
            for unit in (("FX", "FY"), ("OX",), ("OY",), ("K",), ("C",))
        ]
        tried = set()
        for inner in itertools.permutations([u for u in units if u]):
            for order in itertools.permutations([a for a in around if a]):
                found = tuple(itertools.chain(*inner, *order))
                if found not in tried:
                    tried.add(found)
                    yield list(found)


def architecture(name: str, folder: str) -> Path:
    """The YAML of an architecture; a variant's is written into `folder`."""
    import yaml
    import zigzag

    shipped = Path(zigzag.__file__).parent / "inputs" / "hardware"
    if name not in VARIANTS:
        return Path(name) if name.endswith(".yaml") else shipped / f"{name}.yaml"
    base, memory, changes = VARIANTS[name]
    data = yaml.safe_load((shipped / f"{base}.yaml").read_text())
    data["memories"][memory] |= changes
    path = Path(folder, f"{name}.yaml")
    path.write_text(yaml.safe_dump({**data, "name": name}, sort_keys=False))
    return path


def mapped(
    hardware: Path,
    layer: tuple[str, int, int, int, int, int],
    which: str,
    batch: int,
    lpf: int,
    pieces: list[float] | None,
    opt: str = "energy",
) -> dict:
    """One contraction on one architecture: ZigZag's best mapping by `opt`, or the best that has our tiles."""
    import yaml
    from zigzag.api import get_hardware_performance_zigzag
    from zigzag.datatypes import LayerDim
    from zigzag.opt.loma.engine import LomaEngine

    spec = einsum(*layer, which, batch)
    dims = dict(zip(spec["loop_dims"], spec["loop_sizes"], strict=True))
    sizes = yaml.safe_load(hardware.read_text())["operational_array"]["sizes"]
    mapping = [
        {
            "name": "default",
            "spatial_mapping": spatial(UNROLL.get(hardware.stem, K_BY_C)[which], sizes, dims),
            "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"},
        }
    ]
    searched = LomaEngine.ordering_generator
    if pieces:

        def given(engine: LomaEngine) -> Iterator[list[tuple[LayerDim, int]]]:
            loops = {str(n): int(size) for n, size in engine.temporal_loop_dim_size.items()}
            for order in orderings(pieces, which, loops):
                yield [(LayerDim(n), size) for n, size in order]

        LomaEngine.ordering_generator = given
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as tmp:
            for name, content in (("work", [spec]), ("map", mapping)):
                Path(tmp, f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                energy, latency, cmes = get_hardware_performance_zigzag(
                    f"{tmp}/work.yaml",
                    str(hardware),
                    f"{tmp}/map.yaml",
                    opt=opt,
                    dump_folder=f"{tmp}/out",
                    lpf_limit=lpf,
                    loma_show_progress_bar=False,
                )
    finally:
        LomaEngine.ordering_generator = searched
    cme = cmes[0][1][0][0]
    return {
        "chip": hardware.stem,
        **dict(zip(("layer", "c", "k", "p", "r", "stride"), layer, strict=True)),
        "pass": which,
        "batch": batch,
        **({"pieces": pieces} if pieces else {"lpf": lpf}),
        "energy": energy,
        "latency": latency,
        "mac": cme.mac_energy,
        "seconds": round(time.perf_counter() - start, 2),
        "memory": {str(op): [float(v) for v in vs] for op, vs in cme.mem_energy_breakdown.items()},
    }


def main(chips: list[str], lpf: int = LPF, pieces: str = "", batch: int = 1, opt: str = "energy") -> None:
    logging.disable(logging.CRITICAL)
    ours = (
        {
            (r["chip"], r["layer"], r["pass"]): r["pieces"]
            for r in map(json.loads, Path(pieces).read_text().splitlines())
        }
        if pieces
        else {}
    )
    with tempfile.TemporaryDirectory() as tmp:
        for chip in chips:
            hardware = architecture(chip, tmp)
            for layer, which in itertools.product(LAYERS, INDICES):
                if (layer[0], which) != ("conv1", "input_gradient"):
                    row = mapped(
                        hardware, layer, which, batch, lpf, ours[chip, layer[0], which] if pieces else None, opt
                    )
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    flags = dict(a[2:].split("=", 1) for a in sys.argv[1:] if a.startswith("--"))
    main(
        [a for a in sys.argv[1:] if not a.startswith("--")] or ["tpu_like", "eyeriss_like"],
        int(flags.get("lpf", LPF)),
        flags.get("pieces", ""),
        int(flags.get("batch", 1)),
        flags.get("opt", "energy"),
    )
