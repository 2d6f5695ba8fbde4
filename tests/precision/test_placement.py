"""What a placed backend does to a network: nothing it was not told to, everything it was told to, once."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from ebsim.errors import ConfigError
from ebsim.precision import NumberFormat, Placement, apply, averaged, list_backends, quantize, remove
from ebsim.precision.formats.builtin import BUILTIN
from ebsim.precision.quantization import compilation, quantizer
from tests.precision.nets import LAYERS, Small, batch, equal, gradients, train


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Formats spy_a .. spy_f: the identity, counting its calls (rows of pieces: small tensors are one piece)."""
    calls: Counter[str] = Counter()

    def counting(name: str) -> NumberFormat:
        def keep(x: Tensor, u: Tensor | None) -> Tensor:
            calls[name] += 1
            return x

        return NumberFormat(name, 8, "int:8", 3.4e38, keep, scaling="none", scale_bits=0)

    for letter in "abcdefg":
        monkeypatch.setitem(BUILTIN, f"spy_{letter}", counting(f"spy_{letter}"))
    return calls


def test_fp32_leaves_the_network_alone() -> None:
    touched, plain = Small(), Small()
    placement = apply(touched, "fp32", stats_every=1)
    for one, other in zip(touched.modules(), plain.modules(), strict=True):
        assert type(one) is type(other) and vars(one).keys() == vars(other).keys()
    optimizers = sgd(touched), sgd(plain)
    placement.attach(optimizers[0])
    assert not optimizers[0]._optimizer_step_pre_hooks and not optimizers[0]._optimizer_step_post_hooks
    for step in range(3):
        placement.set_step(step)
        assert equal(gradients(touched, *batch(seed=step)), gradients(plain, *batch(seed=step)))
        for optimizer in optimizers:
            optimizer.step()
    assert equal(list(touched.state_dict().values()), list(plain.state_dict().values()))
    assert placement.stats() == {}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_identity_formats_give_the_gradients_of_fp32_bit_for_bit(
    spies: Counter[str], memory_format: torch.memory_format
) -> None:
    plain, placed = (Small().to(memory_format=memory_format) for _ in range(2))
    apply(placed, {"weight": "spy_a", "activation": "spy_b", "error": "spy_c", "output": "spy_d"}, compile=False)
    x, y = batch()
    x = x.to(memory_format=memory_format)
    got, expected = gradients(placed, x, y), gradients(plain, x, y)
    bias = 2 + [name for name, _ in plain.named_parameters()].index("body.bias")
    # oneDNN sums a convolution's bias gradient in another order than ours, which is taken from the unrounded error
    torch.testing.assert_close(got.pop(bias), expected.pop(bias), rtol=1e-5, atol=1e-7)
    assert equal(got, expected)
    assert len(spies) == 4


def test_each_role_is_rounded_once_per_layer_and_shared_by_its_passes(spies: Counter[str]) -> None:
    model = Small()
    apply(model, {"weight": "spy_a", "activation": "spy_b", "error": "spy_c"}, compile=False)
    gradients(model, *batch())
    n = len(LAYERS)
    assert spies == {"spy_a": n, "spy_b": n, "spy_c": n}


def test_each_role_is_rounded_once_per_pass_where_the_passes_differ(spies: Counter[str]) -> None:
    model = Small()
    passes = {
        "forward": {"weight": "spy_a", "activation": "spy_b"},
        "input_gradient": {"weight": "spy_c", "error": "spy_d"},
        "weight_gradient": {"activation": "spy_e", "error": "spy_f"},
    }
    rules = [{"phase": phase, **roles} for phase, roles in passes.items()]
    apply(model, {"rule": rules}, compile=False)
    gradients(model, *batch())
    assert spies == dict.fromkeys([f"spy_{c}" for c in "abcdef"], len(LAYERS))
    spies.clear()
    apply(model, {"rule": rules}, compile=False)
    x, y = batch()
    nn.functional.cross_entropy(model(x), y).backward()  # the image asks for no gradient: neither does the stem's error
    assert spies["spy_c"] == spies["spy_d"] == len(LAYERS) - 1 and spies["spy_f"] == len(LAYERS)


def test_update_roles_fire_once_per_step(spies: Counter[str]) -> None:
    model = Small()
    optimizer = sgd(model)
    roles = {"gradient": "spy_a", "momentum": "spy_b", "stored": "spy_c", "allow_stalling": True}
    placement = apply(model, roles, compile=False)
    placement.attach(optimizer)
    train(model, placement, optimizer, range(2))
    assert spies == dict.fromkeys(("spy_a", "spy_b", "spy_c"), 2 * len(LAYERS))
    placement.detach()
    optimizer.step()
    assert spies["spy_c"] == 2 * len(LAYERS)


def test_operands_are_what_quantize_gives() -> None:
    """An independent forward and backward of one Linear in fp8, by hand."""
    torch.manual_seed(0)
    fc = nn.Linear(7, 4)
    net = nn.Sequential(fc)
    x = torch.randn(5, 7, requires_grad=True)
    e = torch.randn(5, 4)
    apply(net, {"weight": "e4m3", "activation": "e4m3", "error": "e5m2"}, compile=False)
    y = net(x)
    y.backward(e)
    qx, qw, qe = quantize(x, "e4m3"), quantize(fc.weight, "e4m3"), quantize(e, "e5m2")
    assert torch.equal(y, nn.functional.linear(qx, qw, fc.bias))
    assert x.grad is not None and torch.equal(x.grad, qe @ qw)
    assert torch.equal(fc.weight.grad, qe.t() @ qx) and torch.equal(fc.bias.grad, e.sum(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list_backends())
def test_names_keys_and_removal(name: str) -> None:
    model, plain = Small(), Small()
    before = [id(m) for m in model.modules()]
    placement = apply(model, name, compile=False)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [id(m) for m in model.modules()] == before
    assert list(placement.modules) == LAYERS and placement.uncovered == []
    assert isinstance(model.stem, nn.Conv2d) and repr(model) == repr(plain)
    gradients(model, *batch())
    model.load_state_dict(plain.state_dict())  # a checkpoint of one precision is one of any other
    remove(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert equal(gradients(model, *batch()), gradients(plain, *batch()))


def test_gamma_beta_and_biases_stay_exact_unless_asked_for() -> None:
    def thin(backend: dict[str, str]) -> list[bool]:
        model = Small()
        optimizer = sgd(model)
        placement = apply(model, {"base": "bfp8", **backend}, compile=False)
        placement.attach(optimizer)
        train(model, placement, optimizer, range(2))
        return [torch.equal(p, quantize(p, "bfp8")) for p in model.parameters() if p.dim() == 1]

    assert not any(thin({}))
    assert all(thin({"one_dimensional": "bfp8 stochastic"}))


def test_stored_weights_lie_on_the_grid_and_the_optimizer_state_is_stock() -> None:
    model, plain = Small(), Small()
    optimizer, stock = sgd(model), sgd(plain)
    placement = apply(model, "bfp8", compile=False)
    placement.attach(optimizer)
    train(model, placement, optimizer, range(3))
    for p in model.parameters():
        if p.dim() > 1:
            assert torch.equal(p, quantize(p, "bfp8"))
            momentum = optimizer.state[p]["momentum_buffer"]
            assert torch.equal(momentum, quantize(momentum, "bfp8"))
    gradients(plain, *batch())
    stock.step()
    assert optimizer.state_dict().keys() == stock.state_dict().keys()
    assert optimizer.state_dict()["state"].keys() == stock.state_dict()["state"].keys()


@pytest.mark.parametrize("name", ["int8", "bfp8", "eb2020"])
def test_stopping_and_resuming_changes_nothing(name: str) -> None:
    def begin(model: nn.Module) -> tuple[nn.Module, object, torch.optim.SGD]:
        optimizer = sgd(model)
        placement = apply(model, name, seed=3, compile=False)
        placement.attach(optimizer)
        return model, placement, optimizer

    straight, placement, optimizer = begin(Small())
    train(straight, placement, optimizer, range(4))
    first, placement, optimizer = begin(Small())
    train(first, placement, optimizer, range(2))
    torch.rand(7)  # generator state plays no part
    second, placement, again = begin(Small(seed=9))
    second.load_state_dict(first.state_dict())
    again.load_state_dict(optimizer.state_dict())
    train(second, placement, again, range(2, 4))
    assert equal(list(straight.state_dict().values()), list(second.state_dict().values()))


def test_noise_depends_on_seed_step_layer_and_label_and_not_on_threads() -> None:
    def run(seed: int = 0, step: int = 0, label: str = "", threads: int = 1) -> list[Tensor]:
        model = Small()
        placement = apply(model, "bfp8", seed=seed, phase_name=label, compile=False)
        placement._hooks = [None]  # not attached: only the noise of forward and backward is looked at
        placement.set_step(step)
        torch.set_num_threads(threads)
        try:
            return gradients(model, *batch())[:1]
        finally:
            torch.set_num_threads(1)

    assert equal(run(), run())
    for other in (run(seed=1), run(step=1), run(label="retrain")):
        assert not equal(run(), other)
    x = torch.randn(64, 33, 9, 9)
    draws = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        draws.append(quantize(x, "e4m3", rounding="stochastic", layer="a", role="error"))
    torch.set_num_threads(1)
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], quantize(x, "e4m3", rounding="stochastic", layer="b", role="error"))


def test_the_average_of_the_weights_is_fp32_and_unrounded() -> None:
    model = Small()
    optimizer = sgd(model)
    placement = apply(model, "bfp8", compile=False)
    placement.attach(optimizer)
    average = averaged(model)
    states = []
    for step in range(3):
        train(model, placement, optimizer, range(step, step + 1))
        average.update_parameters(model)
        states.append(model.fc.weight.detach().clone())
    assert type(average.module.fc) is nn.Linear and type(model.fc) is not nn.Linear
    torch.testing.assert_close(average.module.fc.weight, sum(states) / 3)
    assert not torch.equal(average.module.fc.weight, quantize(average.module.fc.weight, "bfp8"))


def test_graph_modules_and_fx_still_see_leaves() -> None:
    plain, model = Small(), fx.symbolic_trace(Small())
    apply(model, "bf16", compile=False)
    names = {str(node.target) for node in fx.Tracer().trace(model).nodes if node.op == "call_module"}
    assert {"stem", "body", "point", "fc"} <= names
    reference = Small()
    apply(reference, "bf16", compile=False)
    assert equal(gradients(model, *batch()), gradients(reference, *batch()))
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.filterwarnings("ignore:precision")
def test_a_copy_rounds_like_the_original_until_removed() -> None:
    model = Small()
    apply(model, "bfp8", compile=False)
    twin = copy.deepcopy(model)
    assert equal(gradients(model, *batch()), gradients(twin, *batch()))
    remove(twin)
    assert equal(gradients(twin, *batch()), gradients(Small(), *batch()))
    assert not equal(gradients(model, *batch()), gradients(Small(), *batch()))


@pytest.mark.parametrize("padding, mode", [("same", "zeros"), ("valid", "zeros"), (2, "reflect"), (1, "circular")])
def test_every_padding_is_the_plain_layers(spies: Counter[str], padding: int | str, mode: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, (3, 2), padding=padding, padding_mode=mode, dilation=2))
    placed = copy.deepcopy(plain)
    apply(placed, {"activation": "spy_a"}, compile=False)
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(placed(x), plain(x)) and spies


def test_networks_that_are_not_ours() -> None:
    class Own(nn.Conv2d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(input, weight * 2, bias)

    class Loud(nn.Linear):
        pass

    net = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), Own(4, 4, 1), nn.Flatten(), Loud(4 * 81, 3))
    placement = apply(net, "bf16", compile=False)
    assert list(placement.modules) == ["0", "3"] and placement.uncovered == ["1"]
    assert isinstance(net[3], Loud)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    tokens = nn.Sequential(nn.Linear(6, 4))
    apply(tokens, {"error": "e5m2", "weight": "mxfp8", "activation": "mxfp8"}, compile=False)
    tokens(torch.randn(2, 5, 6)).sum().backward()
    assert tokens[0].weight.grad.shape == (4, 6)


def warned(name: str, loop: Callable[[nn.Module, Placement, torch.optim.SGD], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = Small()
        loop(model, apply(model, name, compile=False), sgd(model))
    return [str(item.message) for item in caught]


def test_a_loop_that_leaves_something_out_is_told_once() -> None:
    def forgetful(model: nn.Module, placement: Placement, optimizer: torch.optim.SGD) -> None:
        for step in range(4):
            gradients(model, *batch(seed=step))
            optimizer.step()

    def attached(model: nn.Module, placement: Placement, optimizer: torch.optim.SGD) -> None:
        placement.attach(optimizer)
        forgetful(model, placement, optimizer)

    neither = warned("bfp8", forgetful)
    assert len(neither) == 2 and "attach(optimizer)" in neither[0] and "set_step(step)" in neither[1]
    [only] = warned("bfp8", attached)
    assert "repeat random numbers" in only and warned("int8", forgetful) == [only.replace("bfp8", "int8")]
    assert warned("fp8", forgetful) == []  # nothing is random and the update is fp32


def test_no_false_alarms() -> None:
    def complete(model: nn.Module, placement: Placement, optimizer: torch.optim.SGD) -> None:
        placement.attach(optimizer)
        train(model, placement, optimizer, range(3))

    def evaluate(model: nn.Module, *_: object) -> None:
        for _ in range(3):
            model(batch()[0])  # BatchNorm statistics of an average are made in training mode
            with torch.no_grad():
                model.eval()(batch()[0])

    def one_gradient(model: nn.Module, *_: object) -> None:
        gradients(model, *batch())

    def removed(model: nn.Module, *_: object) -> None:
        remove(model)
        for _ in range(3):
            gradients(model, *batch())

    for loop in (complete, evaluate, one_gradient, removed):
        assert warned("bfp8", loop) == []


def test_short_loops_stay_eager_unless_told_how_long_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    real = quantizer.run

    def spy(*args: Any, compile: bool, **options: Any) -> Tensor:
        asked.append(compile)
        return real(*args, compile=False, **options)

    monkeypatch.setattr(quantizer, "run", spy)
    monkeypatch.setattr(compilation, "MIN_STEPS_TO_COMPILE", 3)
    monkeypatch.setattr(compilation.shutil, "which", lambda name: name)

    def compiled_from(**options: Any) -> int | None:
        asked.clear()
        model = Small()
        apply(model, {"weight": "int8"}, **options)  # one tensor per layer, in two passes
        for _ in range(8):
            gradients(model, *batch())
        return asked.index(True) // len(LAYERS) if True in asked else None

    assert compiled_from(compile=True) == compiled_from(steps=3) == 0
    assert compiled_from(steps=2) is None and compiled_from(compile=False) is None
    assert compiled_from() in range(3, 7)


def test_errors_name_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"stem.weight is torch.float64.*\.float\(\)"):
        apply(Small().double(), "fp8")
    model = Small()
    with pytest.raises(ConfigError, match=r"attach\(optimizer\)"):
        apply(model, "bfp8").set_step(1)
    with pytest.raises(ConfigError, match="not Adagrad"):
        apply(model, "bfp8").attach(torch.optim.Adagrad(model.parameters()))
    with pytest.raises(ConfigError, match="does not hold"):
        apply(model, "bfp8").attach(torch.optim.SGD(Small().parameters(), lr=1.0))
    with pytest.raises(ConfigError, match="compile"):
        apply(model, "fp8", compile="yes")
    apply(model, "bf16", compile=False)
    with pytest.raises(ConfigError, match=r"stem: .*autocast"), torch.autocast("cpu", torch.bfloat16):
        model(batch()[0])


def test_a_sample_is_rounded_alike_however_the_batch_is_cut() -> None:
    """Micro-batches and processes: bfp8's scales are per sample, so forward and backward agree bit for bit."""
    x, _ = batch(12)
    e = torch.randn(12, 8, 8, 8, generator=torch.Generator().manual_seed(3))

    def run(parts: list[tuple[slice, int, int]]) -> tuple[Tensor, Tensor]:
        model = Small()
        placement = apply(model, "bfp8", compile=False)
        placement._hooks = [None]  # not attached: the update is not looked at
        y, grads = torch.empty(12, 8, 8, 8), torch.empty_like(x)
        for part, first, stride in parts:
            placement.set_step(5, first_sample=first, sample_stride=stride)
            piece = x[part].clone().requires_grad_()
            out = model.stem(piece)
            out.backward(e[part])
            y[part], grads[part] = out.detach(), piece.grad
        return y, grads

    whole = run([(slice(None), 0, 1)])
    assert equal(list(whole), list(run([(slice(0, 5), 0, 1), (slice(5, 12), 5, 1)])))
    assert equal(list(whole), list(run([(slice(1, 12, 2), 1, 2), (slice(0, 12, 2), 0, 2)])))
    assert not equal(list(whole), list(run([(slice(0, 5), 0, 1), (slice(5, 12), 0, 1)])))


def test_calls_of_a_shared_layer_and_passes_without_set_step_draw_anew() -> None:
    layer = nn.Linear(64, 64, bias=False)
    net = nn.Sequential(layer, nn.Identity(), layer)
    nn.init.eye_(layer.weight)
    placement = apply(net, {"activation": "int8/unscaled stochastic"}, compile=False)
    x = torch.full((50, 64), 0.5)
    placement.set_step(1)
    first, second = layer(x), layer(x)
    both = ((first * 2 - 1) * (second * 2 - 1)).mean().item()
    assert abs(both) * (50 * 64) ** 0.5 < 4.5
    placement.set_step(1)
    net.eval()(x)  # an evaluation in between does not count
    net.train()
    assert torch.equal(layer(x), first) and torch.equal(layer(x), second)
    apply(net, {"weight": "int8/unscaled stochastic"}, compile=False)
    nn.init.constant_(layer.weight, 0.5)
    assert torch.equal(layer(x), layer(x))  # a weight is rounded once in a step


def test_activation_checkpointing_recomputes_with_the_same_noise() -> None:
    def run(checkpointed: bool) -> list[Tensor]:
        model = Small()
        placement = apply(model, {"base": "int8", "activation": "int8 stochastic"}, compile=False)
        placement.set_step(2)
        x = batch()[0].requires_grad_()
        h = (
            torch.utils.checkpoint.checkpoint(model.body, model.stem(x), use_reentrant=False)
            if checkpointed
            else model.body(model.stem(x))
        )
        h.square().sum().backward()
        return [x.grad, model.body.weight.grad]

    assert equal(run(True), run(False))
    model = Small()
    apply(model, {"activation": "int8 stochastic"}, compile=False)
    x = batch()[0].requires_grad_()
    for _ in range(2):
        out = torch.utils.checkpoint.checkpoint(model.stem, x, use_reentrant=False)
    with pytest.raises(ConfigError, match="stem: recomputed in the backward pass"):
        out.sum().backward()
