"""Strict configuration: every mistake at once, each with its place and its cure; nothing else gets through."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebsim import config
from ebsim.config.sections import AddedLater, Data, Experiment
from ebsim.config.source import key_lines, parse_value
from ebsim.config.write import to_toml
from ebsim.errors import ConfigError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

BROKEN = """\
name = "broken"
methods = ["dense"]

[train]
epohcs = 3
lr = -1
batch_size = "many"
milestones = [1, "b"]

[prune]
ratio = [0.3, 1.5]
rule = "papr"

[zzz]
a = 1
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "experiment.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, overrides: dict | None = None, choices: dict | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides, choices)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def test_all_mistakes_at_once_with_line_and_cure(tmp_path: Path) -> None:
    path = write(tmp_path, BROKEN)
    lines = refusal(path)
    assert lines[:-1] == [
        f"{path}:5: train.epohcs: unknown key. Did you mean train.epochs?",
        f"{path}:6: train.lr = -1: must be greater than 0",
        f"{path}:7: train.batch_size = 'many': must be a valid integer",
        f"{path}:8: train.milestones = 'b': must be a valid integer",
        f"{path}:11: prune.ratio = 1.5: must be less than 1",
        f"{path}:12: prune.rule = 'papr': must be 'paper' or 'authors'. Did you mean paper?",
        f"{path}:14: zzz: unknown key.",
    ]
    assert lines[-1] == "7 errors. Nothing was run."


def test_rules_between_keys_and_names(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "a"\n[train]\nepochs = 20\nmilestones = [80]\n[data]\nname = "digts"\n')
    lines = refusal(path, choices={"data.name": lambda: ["digits", "cifar10"]})
    assert lines[0].startswith(f"{path}:4: train.milestones = [80]: must lie before train.epochs = 20")
    assert lines[1] == f'{path}:6: data.name = "digts": not known. Did you mean digits? There are: cifar10, digits.'


def test_an_override_wins_and_is_named_in_its_error(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "a"\n[train]\nlr = 0.2\n')
    assert config.load(path, {"train.lr": 0.5}).train.lr == 0.5
    assert refusal(path, {"train.lr": 0})[0] == "--set train.lr: train.lr = 0: must be greater than 0"
    assert "Did you mean train.epochs?" in refusal(path, {"train.epoch": 3})[0]
    assert "is a value, not a table" in refusal(path, {"name.x": 3})[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [("40", 40), ("1e-4", 1e-4), ("true", True), ("[0.3, 0.5]", [0.3, 0.5]), ('"x"', "x"), ("digits", "digits")]
    + [(path, path) for path in ("/data/imagenet", "../x.toml", "~/data")],
)
def test_override_values_are_toml(text: str, value: object) -> None:
    parsed = parse_value(text, "--set k")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["", "[1", "1 2", "a b", "= 3", "\x00"])
def test_override_values_that_are_nothing(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a TOML value"):
        parse_value(text, "--set k")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"name = ",
        b"name = 'a'\nname = 'b'",
        b"a = " + b"[" * 3000,
        b"a = " + b"1" * 5000,
        b"[" + b".".join([b"a"] * 500) + b"]",
        b"#" * (1 << 21),
        b'name = "a\\u0000"',
        b"",
    ],
)
def test_hostile_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    assert refusal(path)[0].startswith(str(path))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "not there" in refusal(tmp_path / "none.toml")[0]
    assert "a folder" in refusal(tmp_path)[0]


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "a"\n[train]\nlr = nan\nl1 = inf\nweight_decay = true\n')
    assert len(refusal(path)) == 4


VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-3, 200), st.floats(allow_nan=True), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "epochs"]), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(config.all_keys()), VALUES, max_size=5))
def test_any_values_give_an_experiment_or_a_config_error(values: dict) -> None:
    source = config.ExperimentSource("here", {"name": "a"})
    try:
        from ebsim.config.source import override

        override(source, values)
        config.validate(source)
    except ConfigError as error:
        assert str(error).strip()


def test_a_resolved_experiment_reads_back_as_itself(tmp_path: Path) -> None:
    for source in sorted(EXPERIMENTS.rglob("*.toml")):
        experiment = config.load(source)
        again = config.load(write(tmp_path, to_toml(experiment)))
        assert again.identity() == experiment.identity()
    odd = {"name": "a", "precision": {"backends": {"x y": {"weight": 'e"4\n\x7f'}}}}
    experiment = config.validate(config.ExperimentSource("here", odd))
    assert tomllib.loads(to_toml(experiment))["precision"]["backends"] == odd["precision"]["backends"]


def test_where_a_thing_runs_is_not_part_of_what_it_is() -> None:
    base = config.validate(config.ExperimentSource("here", {"name": "a"}))
    moved = {"name": "a", "data": {"root": "elsewhere", "workers": 3}, "train": {"device": "cpu", "threads": 2}}
    assert config.validate(config.ExperimentSource("here", moved)).identity() == base.identity()
    changed = {"name": "a", "train": {"lr": 0.2}}
    assert config.validate(config.ExperimentSource("here", changed)).identity() != base.identity()


def test_a_later_key_leaves_old_identities_alone() -> None:
    from typing import Annotated

    class Newer(Data):
        shuffle: Annotated[bool, AddedLater(noop=True)] = True

    assert Newer().identity() == Data().identity()
    assert Newer(shuffle=False).identity() == {**Data().identity(), "shuffle": False}


def test_every_key_is_explained() -> None:
    def walk(section: type) -> list[str]:
        out = []
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                out += walk(field.annotation)
            elif not field.description:
                out.append(f"{section.__name__}.{name}")
        return out

    assert walk(Experiment) == []


def test_the_locator_finds_tables_dotted_and_quoted_keys() -> None:
    text = 'a = 1\n[b]\n"c d" = 2\ne.f = 3\n[[g]]\nh = 4\n'
    assert key_lines(text) == {"a": 1, "b": 2, "b.c d": 3, "b.e.f": 4, "g": 5, "g.0": 5, "g.0.h": 6}


def write_tree(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")


def test_a_path_is_looked_for_beside_the_experiment_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path, "exp/both.toml", "both.toml", "exp/own.toml", "here.toml", "exp/images/x", "exp/f/int4.py")

    def profile(word: str, overrides: dict | None = None) -> str:
        path = write(tmp_path / "exp", f'name = "a"\n[hardware]\nprofile = "{word}"\n')
        choices = {"hardware.profile": lambda: ["h100"]}
        return config.load(path.relative_to(tmp_path), overrides, choices).hardware.profile

    assert profile("own.toml") == "exp/own.toml"
    assert profile("both.toml") == "exp/both.toml"
    assert profile("here.toml") == "here.toml"
    assert profile(str(tmp_path / "here.toml")) == str(tmp_path / "here.toml")
    assert profile("h100") == "h100"
    assert profile("own.toml", {"hardware.profile": "both.toml"}) == "both.toml"  # typed here, meant from here
    with pytest.raises(ConfigError, match=r'experiment.toml:3: hardware.profile = "gone.toml": no such file, beside'):
        profile("gone.toml")
    rest = '[data]\nroot = "images"\n[precision]\nbackends.mine = { weight = "f/int4.py:INT4 stochastic" }\n'
    found = config.load(write(tmp_path / "exp", f'name = "a"\n{rest}').relative_to(tmp_path))
    assert found.data.root == "exp/images"
    assert found.precision.backends == {"mine": {"weight": "exp/f/int4.py:INT4 stochastic"}}
    monkeypatch.chdir(tmp_path / "exp")
    assert config.load(Path("experiment.toml")).data.root == "images"


def test_a_stored_experiment_falls_back_to_the_profile_stored_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "a"\n[hardware]\nprofile = "gone.toml"\n')
    (tmp_path / "hardware.toml").write_text("")
    assert config.load(path).hardware.profile == str(tmp_path / "hardware.toml")


def test_axes_of_a_grid_find_their_paths_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ebsim.grid.expand import expand

    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path, "exp/one.toml", "exp/two.toml")
    write(tmp_path / "exp", 'name = "a"\n[grid]\nhardware.profile = ["one.toml", "two.toml", "h100"]\n')
    cells = expand(Path("exp/experiment.toml"), choices={"hardware.profile": lambda: ["h100"]}).cells
    assert [cell.experiment.hardware.profile for cell in cells] == ["exp/one.toml", "exp/two.toml", "h100"]
