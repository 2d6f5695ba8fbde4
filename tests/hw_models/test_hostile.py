"""Hostile and malformed files: every one gives a named error with file and line, and leaves nothing behind."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from hw_models import HardwareError, ProfileError, load, training_cost
from hw_models.accelerator.toml_reader import SHIPPED
from hw_models.analysis import commands
from hw_models.workload import reference_networks

from .test_calibration import measurements

START = 'extends = "horowitz-45nm"\nname = "x"\n'
NET = reference_networks.vgg16(10)[:4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (START + '[array]\nfused = ["foo"]', r":4: array.fused: 'foo' is not one of bn,"),
        (START + 'formats = ["int9"]', r":3: formats: 'int9' is not one of fp32"),
        (START + "[dramm]\npj_per_bit = 3", r":3: dramm: is not a known key; did you mean dram"),
        (START + "kib = 3\nkib = 4", r":4: not valid TOML: .* stands twice"),
        ('extends = "eyeris"', r"no such accelerator profile; did you mean eyeriss-like-65nm"),
        (START + '[memory.buffer]\nsource = ""', r":4: memory.buffer.source: is empty; .*memory.buffer.sram_law"),
        (START + "clock_ghz = " + "9" * 5000, r":1: not valid TOML: .*digits"),
        (START + ".".join("a" * 3000) + " = 1", r":1: nested too deeply"),
        (START + '"k\\u001b[31m" = 3', r":1: 'k\\x1b\[31m'\.\.\.: is not a known key"),
        ('extends = "horowitz-45nm"\nname = "x\\u001b[31m"', r":2: name: must be one line without control characters"),
        ('name = "x"\nextends = "nowhere"', r"p.toml:2: extends: nowhere: no such accelerator profile"),
        ('extends = "a\\u0000b"', r":1: extends: 'a\\x00b'\.\.\.: no such"),
        ('extends = "' + "a" * 5000 + '"', r":1: extends: 'aaa.*\.\.\.: no such"),
        ("k = 1\n" * 200_000, r":1: larger than 256 KiB"),
        ("\n".join(f"k{i} = {i}" for i in range(9000)), r":1: schema: is missing; add schema = 1"),
        ("", r':1: kind: is missing; add kind = "array" or "device"'),
        (START + "[dram]\npj_per_bit = { value = nan, source = 's' }", r"^[^\n]*:4: dram.pj_per_bit: is nan[^\n]*$"),
    ],
)
def test_it_is_named_with_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=words) as error:
        load(path)
    assert "\x1b" not in str(error.value) and "\x00" not in str(error.value)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="is a directory"):
        load(tmp_path)
    for name in ("a" * 5000, "a\0b", "", str(tmp_path / "none.toml")):
        with pytest.raises(ProfileError, match=r"no such accelerator|is a directory"):
            load(name)
    (tmp_path / "diannao.toml").write_text(START)
    with pytest.raises(ProfileError, match=r"dianao.toml: no such .* did you mean .*diannao.toml"):
        load(tmp_path / "dianao.toml")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    with pytest.raises(ProfileError, match=r"pyprojec.toml: no such accelerator profile \(shipped"):
        load(tmp_path / "pyprojec.toml")
    (tmp_path / "binary.toml").write_bytes(random.Random(1).randbytes(5000))
    with pytest.raises(ProfileError, match=r"binary\.toml:1: is not UTF-8"):
        load(tmp_path / "binary.toml")


def test_a_table_may_say_that_all_its_numbers_are_derived(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(START + "[memory.buffer]\nderived = true\n[op]\nderived = true\n")
    chip = load(tmp_path / "p.toml")
    assert chip.memories[0].read.derived and chip.ops["add"].derived and not chip.dram.derived


def test_what_is_no_list_of_layers_is_named() -> None:
    with pytest.raises(HardwareError, match=r"pass hw_models\.trace"):
        training_cost(object(), "horowitz-45nm")
    with pytest.raises(HardwareError, match="no reference network 'ResNet-18'; did you mean resnet18"):
        reference_networks.network("ResNet-18")


VALUES = ("-1", "0", "nan", "inf", "1e308", "1e-308", "true", '"text"', "[]", "[1, 2]", "{}", "[[1]]", "9" * 40)


def _mangled(text: str, dice: random.Random) -> str:
    """A profile with some lines lost, doubled, swapped, or given another value."""
    lines = text.splitlines()
    for _ in range(dice.randint(1, 3)):
        i, j = dice.randrange(len(lines)), dice.randrange(len(lines))
        match dice.randrange(5):
            case 0:
                del lines[i]
            case 1:
                lines.insert(j, lines[i])
            case 2:
                lines[i], lines[j] = lines[j], lines[i]
            case 3:
                value = dice.choice(VALUES)
                lines[i] = re.sub(r"(value = |= )[^,{}\[\]]+", lambda m, v=value: m[1] + v, lines[i], count=1)
            case 4:
                at = dice.randrange(len(lines[i]) + 1)
                lines[i] = lines[i][:at] + dice.choice('"[]{}=#.\\\x07é') + lines[i][at:]
    return "\n".join(lines)


def test_mangled_profiles_are_refused_by_name_or_price_a_step(tmp_path: Path) -> None:
    dice, path, refused = random.Random(7), tmp_path / "mangled.toml", 0
    originals = [p.read_text(encoding="utf-8") for p in sorted(SHIPPED.glob("*.toml"))]
    for _ in range(250):
        path.write_text(_mangled(dice.choice(originals), dice), encoding="utf-8")
        try:
            chip = load(path)
        except ProfileError as error:
            refused += 1
            assert all(re.match(r".*\.toml:\d+: ", line) for line in str(error).splitlines()), str(error)
        else:
            cost = training_cost(NET, chip, chip.widest, 8)  # which checks itself
            assert cost.total > 0 and cost.seconds > 0
    assert 50 < refused < 250


# --- nothing is left behind -----------------------------------------------------------------------


def test_a_start_that_is_no_profile_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(START + "[dram]\ngbytes_per_s = -1\n")
    with pytest.raises(ProfileError, match=r"bad\.toml:4"):
        commands.new(tmp_path / "new.toml", str(tmp_path / "bad.toml"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\nname = "mine"\n')
    (tmp_path / "base.toml").write_text(START)
    with pytest.raises(ProfileError, match=r"extends: base\.toml: no such"):  # accepted where it was, not where it goes
        commands.new(tmp_path / "sub" / "new.toml", str(tmp_path / "mine.toml"))
    assert sorted(p.name for p in tmp_path.rglob("new.toml")) == []


HEAD = "network,precision,batch,joules,seconds\n"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("vgg16,fp32,16,1e8,1\nvgg16,fp32,32,1e8,2\nresnet18,fp32,16,1e8,1\n", "no profile; are joules"),
        ("vgg16,fp32,16.5,1,1\n", ":2: batch is '16.5'"),
        ("vgg16,fp32,1e9,1,1\n", ":2: batch is '1e9'"),
        ("vgg16,fp32,16,1,inf\n", ":2: seconds is 'inf'"),
        ("vgg16,fp32\n", ":2: batch is None"),
        ("vgg16,fp32,16,1,1\n,,,,\n", ":3: batch is ''"),
        ("lenet,fp32,16,1,1\n", ":2: no reference network 'lenet'"),
        ("\0\n", "cannot be read as CSV|:2: batch"),
    ],
)
def test_measurements_that_make_no_profile_leave_no_file(tmp_path: Path, rows: str, words: str) -> None:
    (tmp_path / "m.csv").write_text(HEAD + rows)
    for out in (tmp_path / "out.toml", None):
        with pytest.raises(HardwareError, match=words):
            commands.calibrate("h100", tmp_path / "m.csv", out)
    assert not (tmp_path / "out.toml").exists()
    with pytest.raises(ProfileError, match=r"ends in \.toml"):
        commands.calibrate("h100", tmp_path / "m.csv", tmp_path / "out.txt")


def test_names_of_files_cannot_break_a_calibrated_profile(tmp_path: Path) -> None:
    path = measurements(tmp_path / 'my "best" \\ run\x07.csv')
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "h100.toml").write_text('extends = "h100"\nname = "h100"\nsummary = "mine, not the shipped one"\n')
    commands.calibrate(str(tmp_path / "h100.toml"), path, folder / "cal.toml")
    chip = load(folder / "cal.toml")
    assert 'my "best" \\ run?.csv' in chip.calibrated_on
    assert str(tmp_path / "h100.toml") in (folder / "cal.toml").read_text()
