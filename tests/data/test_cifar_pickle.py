"""Reading pickles without unpickling: the same values for plain data, and nothing ever runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebsim.data.cifar_pickle import PickledCall, as_bytes, byte_array, parse

from .conftest import python2_pickle

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner) | st.tuples(inner, inner),
    max_leaves=12,
)


@given(plain, st.integers(3, 5))
def test_plain_data_comes_out_as_it_went_in(value: object, protocol: int) -> None:
    assert parse(pickle.dumps(value, protocol)) == value


@given(st.lists(st.integers(-(2**70), 2**70)), st.text(max_size=30), st.integers(0, 5))
def test_lists_and_texts_in_every_protocol(numbers: list[int], text: str, protocol: int) -> None:
    value = {"labels": numbers, "name": text, "pair": (text, 1.5)}
    assert parse(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_of_bytes_in_every_protocol_that_writes_them_inline(protocol: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 12), dtype=np.uint8)
    assert np.array_equal(byte_array(parse(pickle.dumps(array, protocol))), array)


def test_a_file_of_python_2_reads_as_unpickling_would() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 48), dtype=np.uint8)
    content = python2_pickle([1, 0, 1], pixels)
    oracle = pickle.loads(content, encoding="latin1")
    parsed = parse(content)
    assert parsed["labels"] == oracle["labels"] == [1, 0, 1]
    assert np.array_equal(byte_array(parsed["data"]), oracle["data"]) and np.array_equal(oracle["data"], pixels)


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_only_read_about(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"data": Attack(tmp_path / "ran")}, protocol)
    parsed = parse(content)
    assert isinstance(parsed["data"], PickledCall) and str(parsed["data"].function).endswith("system")
    with pytest.raises(ValueError, match="not a pickled numpy array"):
        byte_array(parsed["data"])
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)
    assert (tmp_path / "ran").exists()  # the attack is a real one


def test_any_damage_is_a_value_error() -> None:
    content = python2_pickle([0, 1], np.arange(96, dtype=np.uint8).reshape(2, 48))
    random = np.random.default_rng(0)
    outcomes = []
    for cut in range(len(content)):
        with pytest.raises(ValueError):
            parse(content[:cut])
    for _ in range(2000):
        broken = bytearray(content)
        broken[random.integers(len(broken))] ^= 1 << random.integers(8)
        try:
            byte_array(parse(bytes(broken))["data"])
            outcomes.append("read")
        except (ValueError, KeyError, TypeError) as error:
            outcomes.append(type(error).__name__)
    assert {"read", "ValueError"} <= set(outcomes)  # why digests are checked first


@pytest.mark.parametrize("instruction", [b"i__builtin__\nint\n", b"}\x81", b"Psome id\n", b"\x82\x01"])
def test_instructions_that_data_does_not_need_are_refused(instruction: bytes) -> None:
    with pytest.raises(ValueError):
        parse(b"\x80\x02(" + instruction + b".")


def test_byte_strings_in_three_spellings() -> None:
    assert (
        as_bytes(b"\xff") == as_bytes("\xff") == as_bytes(PickledCall("_codecs encode", ("\xff", "latin1"))) == b"\xff"
    )
