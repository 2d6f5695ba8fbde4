"""What a run says that its results were made with is what its epochs were trained with, not who reports them."""

from __future__ import annotations

from ebsim.runs.provenance import collect, trained_under

OLD = {"first_epoch": 1, "torch": "2.9", "threads": 4, "cpu_capability": "AVX2", "code": "aa", "device": "cpu"}


def test_a_reused_stage_speaks_for_itself() -> None:
    said = collect("cpu") | trained_under({"dense-1": [OLD]})
    assert (said["torch_build"], said["threads"], said["code"]) == ("2.9", 4, "aa")
    assert said["stages"] == {"dense-1": [OLD]}


def test_several_environments_are_all_named() -> None:
    new = {**OLD, "first_epoch": 4, "threads": 1}
    said = collect("cpu") | trained_under({"dense-1": [OLD, new], "ticket-2": [new]})
    assert (said["torch_build"], said["threads"]) == ("2.9", "4; 1")


def test_without_stages_the_present_is_what_counts() -> None:
    said = collect("cpu")
    assert said | trained_under({}) == said | {"stages": {}}
    assert {"code", "threads", "torch_build"} <= said.keys()
