"""Checkpoints that would harm who opens them: nothing runs, nothing hangs."""

from __future__ import annotations

import os
import pickle
import sys
from collections import OrderedDict

import pytest

from tests.importers.pickles import HEADER
from tf_sphereface.importers import read_torch_checkpoint


class RunsACommand:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("nested", [False, True])
def test_hostile_pickle_runs_nothing(tmp_path, write, state, nested) -> None:
    target = tmp_path / "was_here"
    value = {"net": state, "note": RunsACommand(target)} if nested else RunsACommand(target)
    path = write(tmp_path / "hostile.pt", value)
    with pytest.raises(ValueError, match=r"hostile\.pt: refused: it names posix\.system"):
        read_torch_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (b"cbuiltins\neval\n(V1\ntR.", "builtins.eval"),
        (b"c__builtin__\nexec\n(V1\ntR.", "__builtin__.exec"),
        (b"(S'ls'\nios\nsystem\n.", "os.system"),  # the INST instruction
        (b"(cnt\nsystem\nS'ls'\no.", "nt.system"),  # OBJ
        (b"\x8c\x02os\x8c\x06system\x93.", "os.system"),  # STACK_GLOBAL
        (b"csubprocess\nPopen\n(V1\nt\x81.", "subprocess.Popen"),  # NEWOBJ
        (b"ccommands\nPopen\n(V1\ntR.", "commands.Popen"),  # subprocess, as protocol 2 names it
        (b"crunpy\n_run_code\n.", "runpy._run_code"),
    ],
)
@pytest.mark.parametrize("place", ["magic", "content"])
def test_a_file_that_would_run_a_command_is_refused(tmp_path, program, named, place) -> None:
    path = tmp_path / "hostile.pt"
    path.write_bytes((HEADER if place == "content" else b"\x80\x02") + program)
    with pytest.raises(ValueError, match=rf"hostile\.pt: refused: it names {named}, which"):
        read_torch_checkpoint(path)


@pytest.mark.parametrize(
    "program",
    [
        b"ctorch._utils\n_rebuild_tensor_v2.__class__\n(V1\ntR",
        b"ccollections\nabc.sys.exit\n(tR",
        b"ctorch.hub\nload\n(Vowner/name\ntR",
        b"ctorch\nload\n(Vx\ntR",
        b"cbuiltins\ngetattr\n(cos\npath\nVjoin\ntR(tR",
        b"cnumpy.testing._private.utils\nrunstring\n(Vraise SystemExit\n}tR",
        b"cno.such.module\nThing\n)\x81}Vx\nK\x01sb",  # NEWOBJ, BUILD
        b"cno.such.module\nThing\n)}\x92",  # NEWOBJ_EX
        b"cno.such.module\nThing\n(tR(K\x01e",  # APPENDS
        b"cno.such.module\nThing\n(tRK\x01a",
        b"cno.such.module\nThing\n(tRVx\nK\x01s",
        b"cno.such.module\nThing\n(tR(K\x01\x90",  # ADDITEMS
    ],
)
def test_foreign_names_are_neither_imported_nor_called(tmp_path, program) -> None:
    path = tmp_path / "foreign.pt"
    path.write_bytes(HEADER + b"\x80\x02" + program + b"." + pickle.dumps([], 2))
    with pytest.raises(ValueError, match=r"foreign\.pt: no state dictionary"):
        read_torch_checkpoint(path)
    assert "no" not in sys.modules


DOUBLED = b"K\x01" + b"2\x86" * 60  # each tuple holds the one before it twice: 2**60 values
NESTED = b"K\x01" + b"\x85" * 100_000


@pytest.mark.parametrize(
    "program",
    [
        b"}" + DOUBLED + b"K\x01s.",
        b"}(" + DOUBLED + b"K\x01u.",
        b"(" + DOUBLED + b"K\x01d.",
        b"\x8f(" + DOUBLED + b"\x90.",
        b"(" + DOUBLED + b"\x91.",
        b"cno\nThing\n(tR" + DOUBLED + b"K\x01s.",
        b"}" + NESTED + b"K\x01s.",
        b"}" + NESTED + b"q\x000h\x00K\x01s.",  # by way of the memo
    ],
)
def test_keys_that_take_for_ever_to_hash(tmp_path, program) -> None:
    """Without a check the first ones never end, and the deep ones overflow C's stack."""
    path = tmp_path / "bomb.pt"
    path.write_bytes(HEADER + b"\x80\x04" + program)
    with pytest.raises(ValueError, match=r"bomb\.pt: .*too large to be one"):
        read_torch_checkpoint(path)


@pytest.mark.parametrize(
    "program",
    [
        NESTED + b".",
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"cno\nThing\n" * 50_000 + b"2" + b".",
        b"".join(b"cno\nThing%d\n" % k for k in range(3_000)) + b".",
        b"]q\x00h\x00a.",  # a list in itself
        b"}q\x00Vx\nh\x00s.",
        b"cno\nThing\n(tRq\x00}Vx\nh\x00sb.",
    ],
)
def test_odd_structures_end_in_an_error(tmp_path, program) -> None:
    path = tmp_path / "odd.pt"
    path.write_bytes(HEADER + b"\x80\x02" + program + pickle.dumps([], 2))
    with pytest.raises(ValueError, match=r"odd\.pt: no state dictionary"):
        read_torch_checkpoint(path)


@pytest.mark.parametrize(
    "target",
    ["torch._utils\n_rebuild_tensor_v2", "torch\nFloatStorage", "collections\nOrderedDict"],
)
@pytest.mark.parametrize("attribute", [b"}S'x'\nK\x01s", b"N}S'x'\nK\x01s\x86"])
def test_a_pickle_cannot_change_what_it_is_given(tmp_path, target, attribute) -> None:
    """The BUILD instruction sets attributes, by `__dict__` or by `setattr`."""
    path = tmp_path / "hostile.pt"
    path.write_bytes(HEADER + b"\x80\x02c" + target.encode() + b"\n" + attribute + b"b.")
    with pytest.raises(ValueError, match="damaged one"):
        read_torch_checkpoint(path)
    assert not hasattr(OrderedDict, "x")


def test_a_few_bytes_cannot_take_much_memory(tmp_path) -> None:
    """The C unpickler makes room for as many values as the highest number: here 34 GB."""
    path = tmp_path / "bomb.pt"
    path.write_bytes(HEADER + b"\x80\x02Nr\xff\xff\xff\x7f.")
    with pytest.raises(ValueError, match=r"bomb\.pt: .*keeps its value number 2147483647"):
        read_torch_checkpoint(path)


def test_a_dictionary_whose_methods_a_pickle_replaced(tmp_path) -> None:
    program = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsNsb."
    path = tmp_path / "odd.pt"
    path.write_bytes(HEADER + program + pickle.dumps([], 2))
    with pytest.raises(ValueError, match=r"odd\.pt: "):
        read_torch_checkpoint(path)
