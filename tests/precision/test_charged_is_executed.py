"""The central promise of this project: what is priced is what ran, for every preset and at random.

Hooks on every quantizer and on every product of a real training step count elements and formats by layer, pass and
role. The record prices a step in which the same stands, operand by operand, quantizer by quantizer.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hw_models
from ebsim.precision import apply, list_backends, placement, three_passes
from hw_models.cost.training_step import ROUNDED_IN
from hw_models.cost.vector_ops import QUANTIZE
from hw_models.precision.formats import PASSES, parse_precision
from hw_models.precision.record_schema import OPERAND_ROLES
from hw_models.workload.layer import CONTRACTIONS
from tests.precision.nets import Small

CHIP = hw_models.load("horowitz-45nm")
N = 6
Rounded = Counter[tuple[str, str, str, str, bool]]  # (layer, pass, role, format, stochastic) -> elements


class Everything(nn.Module):
    """Layers of every kind that is covered, and two that are not; modules and functions in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.pool = nn.AvgPool2d(2)
        self.mix = nn.Bilinear(6, 6, 4)
        self.norm = nn.LayerNorm(4)
        self.shared = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        x = self.pool(torch.relu(self.up(self.depthwise(x)) + 1))
        x = x.flatten(2).transpose(1, 2)  # [N, T, C]
        x = x[..., :4]
        x = self.shared(torch.tanh(self.shared(self.norm(x))))
        return self.fc(x.mean(1))


class Chain(nn.Module):
    """A random stack of convolutions, normalizations, activations and a classifier."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        width, body = 3, []
        for _ in range(rng.randint(1, 4)):
            groups = rng.choice([1, 1, 3]) if width % 3 == 0 else 1
            out = rng.choice([3, 6, 9]) if groups == 3 else rng.choice([4, 6, 12])
            kind = rng.choice(["conv", "transposed"]) if groups == 1 else "conv"
            layer = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
            kernel = rng.choice([1, 3])
            padding = 1 if kind == "conv" else kernel // 2  # a transposed one shrinks what is padded
            body.append(layer(width, out, kernel, padding=padding, groups=groups, bias=rng.random() < 0.5))
            body += [m for m in (nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)) if rng.random() < 0.7]
            width = out
        self.body = nn.Sequential(*body)
        self.fc = nn.Linear(width, 5)
        for module in self.body[1:]:  # behind a trained layer, so that gradients still flow through everything
            if rng.random() < 0.15 and isinstance(module, nn.Conv2d):
                module.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


def random_backend(rng: random.Random) -> dict[str, Any]:
    formats = ["fp32", "bf16", "e4m3", "e5m2 stochastic", "int8/row", "int8", "bfp8 stochastic", "mxfp8", "bfp8/16"]
    stored = ["fp32", "bf16", "bfp8 stochastic"]
    table: dict[str, Any] = {
        role: rng.choice(formats)
        for role in ("weight", "activation", "error", "output", "activation_gradient", "pointwise")
        if rng.random() < 0.7
    }
    table |= {role: rng.choice(stored) for role in ("gradient", "momentum", "stored") if rng.random() < 0.4}
    if rng.random() < 0.3:
        table["one_dimensional"] = rng.choice(stored)
    rules: list[dict[str, Any]] = [
        {"layers": [rng.choice(["@first", "@last"])], "weight": rng.choice(formats), "error": rng.choice(formats)},
        {"layers": ["*"], "phase": "weight_gradient", "activation": rng.choice(formats), "error": rng.choice(formats)},
        {"layers": ["@norm"], "pointwise": rng.choice(formats)},
        {"layers": ["*"], "phase": "input_gradient", "weight": rng.choice(formats)},
    ]
    for role in ("weight", "activation", "output", "pointwise"):
        if table.get(role, "fp32") != "fp32" and rng.random() < 0.25:
            table[role] += " clipped"
    if rng.random() < 0.3:
        table["second_moment"] = rng.choice(stored)
    return {**table, "rule": [rule for rule in rules if rng.random() < 0.4]}


def executed(
    model: nn.Module, table: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[Rounded, dict[tuple[str, str], set[tuple[str, ...]]], dict[str, Any], Counter[str]]:
    """One step: elements by quantizer, (layer, pass) -> formats of the operands that entered its product, the record,
    and elements by layer of which it was remembered whether they were clipped."""
    remembered: Counter[str] = Counter()
    rounded: Rounded = Counter()
    products: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    on_grid: dict[tuple[int, str], tuple[str, Tensor]] = {}  # a tensor that a layer's quantizer made -> its format

    real = placement.Placement.quantize

    def quantize(self: Any, layer: str, role: str, x: Tensor, chosen: Any, **options: Any) -> Tensor:
        y = real(self, layer, role, x, chosen, **options)
        rounded[layer, options.get("phase", "update"), role, chosen.format.name, chosen.stochastic] += x.numel()
        return y

    real_unclipped = placement.Placement.unclipped

    def unclipped(self: Any, layer: str, role: str, x: Tensor, chosen: Any, **options: Any) -> Tensor:
        remembered[layer] += x.numel()
        return real_unclipped(self, layer, role, x, chosen, **options)

    real_call = placement.rounded_layers.LayerPrecision.__call__

    def call(self: Any, phase: str, role: str, x: Tensor, use: Any, op: Any = None) -> Tensor:
        y = real_call(self, phase, role, x, use, op)
        if not self.cells[phase, role].untouched:
            on_grid[id(y), self.name] = (self.cells[phase, role].format.name, y)
        return y

    class Seen:
        """An operation that writes down what enters it."""

        def __init__(self, op: Any, layer: str) -> None:
            self.op, self.layer = op, layer

        def __getattr__(self, key: str) -> Any:
            return getattr(self.op, key)

        def names(self, *tensors: Tensor) -> tuple[str, ...]:
            return tuple(on_grid.get((id(x), self.layer), ("fp32",))[0] for x in tensors)

        def forward(self, a: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            products.setdefault((self.layer, "forward"), set()).add(self.names(a, w))
            return self.op.forward(a, w, b)

        def backward(self, e: Tensor, a: Tensor, w: Tensor, needs_a: bool, needs_w: bool) -> Any:
            if needs_a:
                products.setdefault((self.layer, "input_gradient"), set()).add(self.names(e, w))
            if needs_w:
                products.setdefault((self.layer, "weight_gradient"), set()).add(self.names(a, e))
            return self.op.backward(e, a, w, needs_a, needs_w)

    real_run = three_passes.run

    def run(module: Any, op: Any, a: Tensor, w: Tensor, b: Tensor | None, rounding: Any) -> Tensor:
        return real_run(module, Seen(op, rounding.name), a, w, b, rounding)

    with monkeypatch.context() as patch:
        patch.setattr(placement.Placement, "quantize", quantize)
        patch.setattr(placement.Placement, "unclipped", unclipped)
        patch.setattr(placement.rounded_layers.LayerPrecision, "__call__", call)
        patch.setattr(three_passes, "run", run)
        placed = apply(model, table, compile=False)
        adam = isinstance(table, dict) and "second_moment" in table
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.001) if adam else optimizer
        placed.attach(optimizer)
        x = torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        for step in range(2):  # the second one: momentum is there
            if step:
                rounded.clear(), products.clear(), remembered.clear()
            placed.set_step(step)
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    return rounded, products, placed.record(), remembered


def multiplied(rows: Any, record: dict[str, Any]) -> dict[tuple[str, str], set[tuple[str, ...]]]:
    """(layer, pass) -> formats of the operands, from the rows of the network and the record, as they are priced."""
    precision = parse_precision(record)
    precision = precision.on([row.name for row in rows if row.kind in ("conv", "linear")])
    products: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for row in rows:
        if row.kind not in CONTRACTIONS:
            continue
        rule = precision.rule(row.name, row.kind)
        layer = row.op
        for phase, pair in zip(PASSES, rule.operands, strict=True):
            if phase == "input_gradient" and row.first:
                continue
            products.setdefault((layer, phase), set()).add(tuple(fmt.name for fmt in pair))
    return products


def energy_of_quantizers(record: dict[str, Any], rows: Any) -> tuple[float, float, float]:
    """Elements that the priced step quantizes, how many of them at random, and those remembered as clipped or not."""
    cost = hw_models.training_cost(rows, CHIP, record, N, "compulsory", hypothetical=True)
    parts = {part.key: part.counts.sum() for part in cost.parts if part.component == "quantiser"}
    if not parts:
        return 0.0, 0.0, 0.0
    elements = parts["op.compare"] / QUANTIZE["compare"]
    more = parts["op.integer"] - elements * QUANTIZE["integer"]  # made in the forward pass, applied in a backward one
    return elements, parts["op.random"], more / 2


def by_layer_and_stage(record: dict[str, Any], rows: Any) -> Counter[tuple[str, int]]:
    cost = hw_models.training_cost(rows, CHIP, record, N, "compulsory", hypothetical=True)
    found: Counter[tuple[str, int]] = Counter()
    for part in cost.parts:
        if part.component == "quantiser" and part.key == "op.compare":
            for stage, counts in enumerate(part.counts):
                for name, count in zip(cost.table.names, counts, strict=True):
                    found[name, stage] += round(float(count))
    return Counter({key: n for key, n in found.items() if n})


def modules_of(rows: Any, model: nn.Module) -> dict[str, str]:
    """Row of the table -> module whose quantizers work on it: a second call is a row of its own."""
    names = dict(model.named_modules())
    return {row.name: row.name if row.name in names else row.name.rpartition(".")[0] for row in rows}


def check(model: nn.Module, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = hw_models.trace(model, (3, 8, 8), check=False)
    rounded, products, record, remembered = executed(model, table, monkeypatch)
    elements, at_random, masks = energy_of_quantizers(record, rows)
    assert elements == sum(rounded.values())
    assert record["name"].startswith("nvfp4_four") or masks == sum(remembered.values())  # (two trials: counted apart)
    assert at_random == sum(n for key, n in rounded.items() if key[-1])
    priced = multiplied(rows, record)
    precision = parse_precision(record)
    for key, pairs in products.items():
        layer, phase = key
        weight_stored = precision.rule(layer).update[2].name  # a weight kept on a grid is on it after the first update
        for pair in pairs:
            roles = OPERAND_ROLES[phase]
            seen = tuple(
                weight_stored if role == "weight" and fmt == "fp32" else fmt
                for role, fmt in zip(roles, pair, strict=True)
            )
            assert priced[key] == {seen}, (key, pair)
    owner = modules_of(rows, model)
    stages: Counter[tuple[str, int]] = Counter()
    for (layer, phase, _, _, _), n in rounded.items():
        stages[layer.removesuffix(".weight").removesuffix(".bias"), ROUNDED_IN[phase]] += n
    by_row: Counter[tuple[str, int]] = Counter()
    for (row, stage), n in by_layer_and_stage(record, rows).items():
        by_row[owner[row], stage] += n
    assert by_row == stages
    uncovered = {row.op for row in rows if row.kind in CONTRACTIONS} - set(record.get("covered", ()))
    for row in rows:
        if row.kind in CONTRACTIONS and row.op in uncovered and record["name"] != "fp32":
            assert {fmt.name for pair in precision.rule(row.name, row.kind).operands for fmt in pair} == {"fp32"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list_backends())
@pytest.mark.parametrize("network", [Small, Everything])
def test_every_preset_charges_what_it_executes(
    name: str, network: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    check(network(), name, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [*range(24), *(pytest.param(n, marks=pytest.mark.slow) for n in range(24, 1000))])
def test_random_backends_on_random_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    check(Chain(rng), random_backend(rng), monkeypatch)
