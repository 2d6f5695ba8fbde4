"""Files are whole or absent, and an altered one is noticed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from ebsim import files
from ebsim.errors import DamagedError, StorageError


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a": torch.randn(3, 4),
        "b": torch.arange(5),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 2),
        "last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.safetensors"
    files.save_tensors(path, tensors(), {"epoch": 3, "rows": [1.5, None, "é"]})
    back, meta = files.load_tensors(path)
    assert meta == {"epoch": 3, "rows": [1.5, None, "é"]}
    assert set(back) == set(tensors())
    for name, tensor in tensors().items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    files.save_tensors(path, tensors(), {"epoch": 3})
    whole = path.read_bytes()
    passed = []
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            back, meta = files.load_tensors(path)
            same = meta == {"epoch": 3} and all(torch.equal(back[n], t) for n, t in tensors().items())
            if not same:
                passed.append(position)
        except DamagedError:
            continue
    assert passed == []
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            files.load_tensors(path)


def test_foreign_and_missing_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(DamagedError, match="missing"):
        files.load_tensors(tmp_path / "none")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(DamagedError, match="not one written by ebsim"):
        files.load_tensors(tmp_path / "foreign")
    (tmp_path / "torn.json").write_text('{"a": 1')
    with pytest.raises(DamagedError, match="not readable as JSON"):
        files.read_json(tmp_path / "torn.json")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="the disk is full") as caught:
        files.write_json(path, {"a": 2})
    assert caught.value.exit_code == 74
    monkeypatch.undo()
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_what_was_loaded_does_not_change_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    files.save_tensors(path, {"x": torch.arange(5000.0)}, {})
    loaded = files.load_tensors(path)[0]["x"]
    with path.open("r+b") as handle:  # in place, as no file of ours is ever written
        handle.seek(-1000, 2)
        handle.write(bytes(1000))
    assert torch.equal(loaded, torch.arange(5000.0))
