"""Profiles: every shipped constant sourced, hostile files refused with file, line, key and cure."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models import FormatError, ProfileError, load
from hw_models.accelerator.mac_energy import FP_LAW, INT_LAW, law_pj
from hw_models.accelerator.sram_energy import sram_pj_per_bit
from hw_models.accelerator.toml_reader import SHIPPED, key_lines
from hw_models.precision.formats import FORMATS, parse_format

NAMES = sorted(p.stem for p in SHIPPED.glob("*.toml"))
BASE = (SHIPPED / "horowitz-45nm.toml").read_text()


def _write(tmp_path: Path, text: str, name: str = "chip.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_profiles_are_there() -> None:
    arrays = {"bitfusion-45nm", "eyeriss-like-65nm", "horowitz-45nm", "tpu-like-7nm"}
    devices = {"a100", "a40", "b200", "h100", "jetson-tx2", "p100", "rtx6000", "v100"}
    assert set(NAMES) == arrays | devices


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_constant_has_a_source_a_band_and_a_sane_value(name: str) -> None:
    chip = load(name)
    assert chip.name == name and chip.absolute_band > 1
    for key, number in chip.constants.items():
        assert number.source.strip() and 1 <= number.band <= 10, key
        assert 0 <= number.value < 1000 and math.isfinite(number.value), key
    assert all(0.01 <= n.value <= 1000 for k, n in chip.constants.items() if k.startswith("mac."))


def test_published_points_are_kept_exactly() -> None:
    horowitz, jouppi = load("horowitz-45nm"), load("tpu-like-7nm")
    for chip, values in (
        (horowitz, {"int8": 0.30, "fp16": 2.0, "fp32": 4.6}),
        (jouppi, {"int8": 0.10, "bf16": 0.59, "fp32": 1.69}),
    ):
        for name, pj in values.items():
            assert chip.mac(FORMATS[name], FORMATS[name]).value == pj
    fusion = load("bitfusion-45nm")
    assert [fusion.mac(FORMATS[f], FORMATS[f]).value for f in ("int4", "int8", "int16")] == [0.118, 0.459, 2.11]


def test_the_integer_law_reproduces_the_synthesis_table() -> None:
    """Bit Fusion's fixed processing elements at 45 nm: within 0.3 %."""
    for bits, pj in ((2, 0.0407), (4, 0.0824), (8, 0.2034), (16, 0.6027)):
        fmt = parse_format(f"int{bits}", {"bits": bits, "mac": f"int:{bits}"})
        assert law_pj(fmt, fmt) == pytest.approx(pj, rel=0.004)
    assert INT_LAW[0] > 0


def test_the_float_law_reproduces_horowitz() -> None:
    a, b = FP_LAW
    for name, pj in (("fp16", 1.1), ("fp32", 3.7)):
        f = FORMATS[name]
        assert a * f.significand**2 + b * (f.significand + f.exponent) == pytest.approx(pj, rel=0.005)


def test_fp8_is_derived_and_banded() -> None:
    for name in ("horowitz-45nm", "tpu-like-7nm"):
        for fmt in ("e4m3", "e5m2"):
            number = load(name).mac(FORMATS[fmt], FORMATS[fmt])
            assert number.derived and number.band >= 1.7
        assert load(name).mac(FORMATS["e4m3"], FORMATS["e5m2"]).derived


def test_a_block_float_multiplies_integers() -> None:
    chip = load("horowitz-45nm")
    assert chip.mac(FORMATS["bfp8"], FORMATS["bfp8"]).value == chip.mac(FORMATS["int8"], FORMATS["int8"]).value


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["horowitz-45nm", "tpu-like-7nm", "bitfusion-45nm"]),
    st.sampled_from(["int", "fp"]),
    st.integers(2, 31),
    st.integers(1, 31),
    st.integers(1, 8),
)
def test_a_wider_multiplier_is_never_cheaper(name: str, kind: str, width: int, other: int, more: int) -> None:
    chip = load(name)

    def fmt(n: int) -> object:
        mac = f"int:{n}" if kind == "int" else f"fp:5,{n}"
        return parse_format("x", {"bits": min(n + 6, 64), "mac": mac})

    narrow, wide = (chip.mac(fmt(n), fmt(other), hypothetical=True).value for n in (width, width + more))
    assert wide >= narrow * (1 - 1e-12)


def test_mixed_widths_lie_between_the_pure_ones() -> None:
    chip = load("horowitz-45nm")
    four, eight = FORMATS["int4"], FORMATS["int8"]
    assert chip.mac(four, four).value < chip.mac(four, eight).value < chip.mac(eight, eight).value
    assert chip.mac(four, eight).value == chip.mac(eight, four).value


def test_sram_energy_grows_with_size_and_falls_with_width() -> None:
    assert sram_pj_per_bit("cacti-45hp", 32, 64) * 64 == pytest.approx(17.0, rel=0.37)
    assert sram_pj_per_bit("cacti-45hp", 128, 64) > sram_pj_per_bit("cacti-45hp", 32, 64)
    assert sram_pj_per_bit("cacti-45hp", 32, 256) < sram_pj_per_bit("cacti-45hp", 32, 64)


@pytest.mark.parametrize(
    ("device", "has", "lacks"),
    [
        ("jetson-tx2", "fp16", "int8"),
        ("jetson-tx2", "fp32", "e4m3"),
        ("h100", "bfp8", "int4"),
        ("bitfusion-45nm", "int4", "fp32"),
        ("eyeriss-like-65nm", "int16", "bf16"),
    ],
)
def test_formats_that_the_hardware_lacks_are_refused_unless_hypothetical(device: str, has: str, lacks: str) -> None:
    chip = load(device)
    chip.mac(FORMATS[has], FORMATS[has])
    with pytest.raises(FormatError, match=f"{device} has no {lacks}.*hypothetical"):
        chip.mac(FORMATS[lacks], FORMATS[lacks])
    assert chip.mac(FORMATS[lacks], FORMATS[lacks], hypothetical=True).value > 0


# --- hostile and mistaken files -----------------------------------------------------------------


def _line(text: str, start: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if line.startswith(start))


@pytest.mark.parametrize(
    ("old", "new", "at", "words"),
    [
        ("clock_ghz = 0.5", "clock_ghz = -0.5", "clock_ghz", "from 0.0001 to 100"),
        ("clock_ghz = 0.5", "clock_ghz = nan", "clock_ghz", "finite"),
        ("clock_ghz = 0.5", "clock_ghz = 1e300", "clock_ghz", "from 0.0001 to 100"),
        ("clock_ghz = 0.5", 'clock_ghz = "fast"', "clock_ghz", "finite number"),
        ("clock_ghz = 0.5", "clock_ghz = true", "clock_ghz", "finite number"),
        ("clock_ghz = 0.5", "clock_gz = 0.5", "clock_gz", "did you mean clock_ghz"),
        ("kib = 2048", "kib = 0", "kib", "memory.buffer.kib"),
        ("kib = 2048", "kib = inf", "kib", "finite"),
        ("kib = 2048", "kib = 2048\nslides = 1", "slides", "true or false"),
        ("dims = [32, 32]", "dims = [0, 32]", "dims", "whole numbers"),
        ("dims = [32, 32]", "dims = [32, 32, 2, 2, 2]", "dims", "1 to 4"),
        ("held = { bits = 1024,", "held = { bits = 1024, shared_along = [3],", "held", "from 1 to 2"),
        ("held = { bits = 1024,", "held = { bits = 1024, shared_along = [0],", "held", "from 1 to 2"),
        ("held = { bits = 1024,", "held = { bits = 1024, shared_along = [1, 1],", "held", "different dimensions"),
        ("held = { bits = 1024,", "held = { bits = 1024, shared_along = [true],", "held", "from 1 to 2"),
        ("held = { bits = 1024,", "held = { bits = 1024, shared_along = 1,", "held", "must name"),
        ("held = { bits = 1024,", "held = { bits = 1024, shared_along = [1],", "held", "(K) need different values"),
        ("sums = { bits = 32,", "sums = { bits = 32, shared_along = [2],", "sums", "unroll pixels there in array"),
        ('forward = ["K", "C"]', 'forward = ["K"]', "forward", "for each of the 2 dims"),
        ("fp32 = { value = 4.6,", "fp33 = { value = 4.6,", "fp33", "not a number format"),
        ("int8 = { value = 0.30,", "int8 = { value = 30,", "int8", "dearer than fp32"),
        ("add = 0.9", "add = -1", "add", "op.add"),
        ('kind = "array"', 'kind = "arrray"', "kind", "array, device"),
        ('sram_law = "cacti-45lop"', 'sram_law = "cacti-3nm"', "sram_law", "cacti-22lop"),
        ('sram_law = "cacti-45lop"', "read_pj_per_bit = 1", "[memory.buffer]", "read_pj_per_bit and write_pj_per_bit"),
        (
            'sram_law = "cacti-45lop"',
            "read_pj_per_bit = 50\nwrite_pj_per_bit = 50",
            "[memory.buffer]",
            "dearer than the outer dram",
        ),
        ("gbytes_per_s = 25.6", "gbytes_per_s = 0", "gbytes_per_s", "dram.gbytes_per_s"),
        ("schema = 1", "schema = 2", "schema", "is 2, must be 1"),
    ],
)
def test_a_mistake_names_file_line_key_and_cure(tmp_path: Path, old: str, new: str, at: str, words: str) -> None:
    assert old in BASE
    text = BASE.replace(old, new, 1)
    path = _write(tmp_path, text)
    with pytest.raises(ProfileError) as error:
        load(path)
    message = str(error.value)
    assert f"{path}:{_line(text, at)}: " in message and words in message


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    text = BASE.replace('source = "Horowitz, ISSCC 2014, 45 nm"\n', "", 1)
    with pytest.raises(ProfileError, match=r"op\.add: has no source"):
        load(_write(tmp_path, text))
    empty = BASE.replace('source = "Horowitz, ISSCC 2014, 45 nm"', 'source = " "', 1)
    with pytest.raises(ProfileError, match=r"op\.source: is empty.*that of op\.add"):
        load(_write(tmp_path, empty))


@pytest.mark.parametrize("table", ["array", "mac", "op", "registers", "dram"])
def test_a_missing_table_is_named(tmp_path: Path, table: str) -> None:
    lines, keep = [], True
    for line in BASE.splitlines():
        if line.startswith("["):
            keep = not line.startswith(f"[{table}")
        lines.append(line if keep else "")
    with pytest.raises(ProfileError, match=table):
        load(_write(tmp_path, "\n".join(lines)))


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = (
        BASE.replace("clock_ghz = 0.5", "clock_ghz = 0")
        .replace("kib = 2048", "kib = -1")
        .replace("multiply = 3.7", "multiplly = 3.7")
    )
    with pytest.raises(ProfileError) as error:
        load(_write(tmp_path, text))
    assert all(word in str(error.value) for word in ("clock_ghz", "memory.buffer.kib", "multiplly", "op.multiply"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "kind"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"a = [", "not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b"[" * 5000, "TOML|nested"),
        (b"x = " + b"[" * 3000 + b"]" * 3000, "nested|TOML|known"),
        (b"k = 1\n" + b"".join(b"key%d = 1\n" % i for i in range(90_000)), "larger than 256 KiB"),
        (b"\n".join(b"key%d = 1" % i for i in range(9_000)), "not a known key"),
    ],
)
def test_broken_files_are_named_errors(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "chip.toml"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=words) as error:
        load(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 20_000


def test_a_circle_of_extends_is_refused(tmp_path: Path) -> None:
    a = _write(tmp_path, 'extends = "b.toml"\nname = "a"\n', "a.toml")
    _write(tmp_path, 'extends = "a.toml"\nname = "b"\n', "b.toml")
    with pytest.raises(ProfileError, match="goes round in a circle"):
        load(a)
    own = _write(tmp_path, 'extends = "own.toml"\n', "own.toml")
    with pytest.raises(ProfileError, match="circle"):
        load(own)


def test_a_long_chain_and_a_missing_parent_are_refused(tmp_path: Path) -> None:
    for i in range(12):
        _write(tmp_path, f'extends = "c{i + 1}.toml"\n', f"c{i}.toml")
    with pytest.raises(ProfileError, match="more than 8"):
        load(tmp_path / "c0.toml")
    with pytest.raises(ProfileError, match=r"nowhere.*shipped: .*horowitz-45nm"):
        load(_write(tmp_path, 'extends = "nowhere"\n'))
    with pytest.raises(ProfileError, match="must be the name or path"):
        load(_write(tmp_path, "extends = 5\n"))


def test_extending_changes_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    path = _write(tmp_path, 'extends = "horowitz-45nm"\nname = "half"\n[memory.buffer]\nkib = 1024\n')
    half, base = load(path), load("horowitz-45nm")
    assert half.memories[0].bits == base.memories[0].bits / 2
    assert half.memories[0].read.value < base.memories[0].read.value  # the SRAM law follows the size
    assert half.mac_points == base.mac_points and half.digest != base.digest


def test_a_mistake_in_a_parent_is_reported_in_the_parent(tmp_path: Path) -> None:
    text = BASE.replace("clock_ghz = 0.5", "clock_ghz = -1")
    parent = _write(tmp_path, text, "parent.toml")
    child = _write(tmp_path, 'extends = "parent.toml"\nname = "child"\n', "child.toml")
    with pytest.raises(ProfileError, match=rf"{parent}:{_line(text, 'clock_ghz')}: clock_ghz"):
        load(child)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ProfileError, match="did you mean horowitz-45nm"):
        load("horowitz45nm")


def test_inner_memory_larger_than_outer_is_refused(tmp_path: Path) -> None:
    extra = '[memory.outer]\nkib = 64\nsram_law = "cacti-45lop"\nsource = "x"\n'
    with pytest.raises(ProfileError, match=r"larger than the outer memory.outer"):
        load(_write(tmp_path, BASE + extra))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(BASE) - 1), st.integers(0, 40), st.text(max_size=12))
def test_any_edit_loads_or_is_a_profile_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, cut: int, insert: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_text(BASE[:at] + insert + BASE[at + cut :], encoding="utf-8", errors="surrogatepass") if not any(
        "\ud800" <= c <= "\udfff" for c in insert
    ) else path.write_text(BASE)
    try:
        load(path)
    except ProfileError as error:
        assert str(path) in str(error)


def test_key_lines_follow_tables_and_quotes() -> None:
    text = 'a = 1\n[t]\n"b" = 2\n# c = 3\n[t.u]\nd = { e = 4 }\n'
    assert key_lines(text) == {"a": 1, "t": 2, "t.b": 3, "t.u": 5, "t.u.d": 6}
