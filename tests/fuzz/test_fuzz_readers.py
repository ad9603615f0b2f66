"""Some hundred damaged files for every reader; that faults are seen; that nothing in any file is ever run.

`experiments/fuzz_readers.py` does the same with tens of thousands, in processes with bounded memory.
"""

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from readers import READERS, Reader
from trials import Bench, Damage

import ipsm_jax
from ipsm_jax.data.errors import DataError

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
from fuzz_readers import fuzz

sys.path.pop(0)

INPUTS = 160


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files_are_read_or_refused_in_a_sentence(reader, tmp_path):
    bench = Bench(reader, tmp_path)
    outcomes = [bench.trial(2, number) for number in range(max(8, INPUTS // reader.cost))]
    assert [outcome for outcome in outcomes if outcome.kind == "fault"] == []
    assert {outcome.kind for outcome in outcomes} == {"accepted", "refused"}


def fake(read):
    def make(folder):
        (folder / "numbers.txt").write_text("1 2 3 4 5 6 7 8 9")
        return [folder / "numbers.txt"]

    return Reader("fake", make, read)


def refuses_all(folder):
    raise DataError(f"{folder}/numbers.txt is bad")


def names_nothing(folder):
    if (folder / "numbers.txt").read_bytes() != b"1 2 3 4 5 6 7 8 9":
        raise DataError("bad")


def lets_other_errors_through(folder):
    [int(word) for word in (folder / "numbers.txt").read_text().split()]


def prints_escapes(folder):
    if (folder / "numbers.txt").read_bytes() != b"1 2 3 4 5 6 7 8 9":
        raise ValueError(f"{folder}/numbers.txt is \x1b[2J bad")


@pytest.mark.parametrize(
    ("read", "errors"),
    [
        (refuses_all, DataError),
        (names_nothing, DataError),
        (lets_other_errors_through, DataError),
        (prints_escapes, ValueError),
    ],
)
def test_faults_are_seen(read, errors, tmp_path):
    bench = Bench(fake(read)._replace(errors=(errors,)), tmp_path)
    assert any(bench.trial(0, number).kind == "fault" for number in range(60))


def test_the_same_number_is_the_same_damage(tmp_path):
    reader = fake(lets_other_errors_through)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    first, second = Bench(reader, tmp_path / "a"), Bench(reader, tmp_path / "b")
    damages = [first.damage(0, number) for number in range(30)]
    assert [(d.data, d.name) for d in damages] == [second.damage(0, n)[1:] for n in range(30)]
    assert len({d.data for d in damages}) > 15


WORKER = """
import json, os, sys, time
name, rounds, seed, first = sys.argv[1], *map(int, sys.argv[2:])
for number in range(first, rounds):
    print(json.dumps({"begins": number}), flush=True)
    if number == 2:
        os.kill(os.getpid(), 11)
    if number == 4:
        time.sleep(1000)
    print(json.dumps({"number": number, "kind": "refused", "damage": "", "detail": ""}), flush=True)
"""


def test_crashes_and_hangs_are_counted_and_the_next_inputs_read():
    result = fuzz("fake", 7, 0, (sys.executable, "-c", WORKER), patience=1.0)
    assert (result["refused"], result["fault"]) == (5, 2)
    assert [(fault["number"], fault["detail"][:20]) for fault in result["faults"]] == [
        (2, "the process died (-1"),
        (4, "no answer for 1 s"),
    ]


def test_the_command_reads_bounds_memory_and_prints_a_table(tmp_path):
    script = Path(__file__).parents[2] / "experiments" / "fuzz_readers.py"
    command = [sys.executable, str(script), "--rounds", "40", "--only", "captions", "--out", str(tmp_path)]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    (result,) = json.loads((tmp_path / "fuzz.json").read_text())["readers"]
    assert result["accepted"] + result["refused"] == 40
    assert f"| captions | 40 | {result['accepted']} | {result['refused']} | 0 |" in done.stdout


class Payload:
    """What makes a folder when Python's own loader of pickles reads it."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_no_file_can_have_code_run(reader, tmp_path):
    proof, folder = tmp_path / "proof", tmp_path / "files"
    folder.mkdir()
    hostile = np.array([Payload(proof)], object)
    np.save(tmp_path / "hostile.npy", hostile, allow_pickle=True)
    np.savez(tmp_path / "hostile.npz", positions=hostile, colors=hostile, seen=hostile)
    contents = [(tmp_path / "hostile.npy").read_bytes(), (tmp_path / "hostile.npz").read_bytes()]
    contents += [pickle.dumps(Payload(proof), protocol) for protocol in (0, 2, 4)]
    bench = Bench(reader, folder)
    for path in bench.valid:
        for content in contents if reader.cost < 10 else contents[::3]:
            assert bench.read(Damage(path, content, "hostile")).kind in ("refused", "accepted")
    assert not proof.exists()


def test_the_hostile_files_are_hostile(tmp_path):
    np.save(tmp_path / "hostile.npy", np.array([Payload(tmp_path / "proof")], object), allow_pickle=True)
    np.load(tmp_path / "hostile.npy", allow_pickle=True)
    assert (tmp_path / "proof").is_dir()


def test_the_package_imports_nothing_that_runs_what_it_reads():
    root = Path(ipsm_jax.__file__).parent
    found = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if {name.split(".")[0] for name in names} & {"pickle", "marshal", "shelve", "dill", "joblib", "torch"}:
                found.append(f"{path.relative_to(root)} imports {names}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "np.load"):
                arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if arguments.get("allow_pickle") != "False":
                    found.append(f"{path.relative_to(root)} calls {ast.unparse(node)}")
    assert found == []
