"""What a run of a grid is known by: other weights of a prior are another run, another name is not."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import pytest
from tiny_embedded import write_embedded_prior
from tiny_grid import options_for, write_scenes

from ipsm_jax.config import ConfigError, OutputConfig, to_json
from ipsm_jax.config.regularization import WEIGHTS, GuidanceWeights
from ipsm_jax.priors.checkpoint import WHOLE, needed_files
from ipsm_jax.priors.config import PriorError

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import grid.cluster
import grid.hosts
from grid.axes import vary
from grid.ledger import Ledger
from grid.plan import expand
from grid.tables import rows_of, told_apart
from model_files import LARGE, depth_network_digest, diffusion_digest, digest_of

sys.path.pop(0)


@pytest.fixture(autouse=True)
def nothing_remembered():
    """Digests are made once in a process; here files change."""
    diffusion_digest.cache_clear()
    depth_network_digest.cache_clear()


def hashes(options, scene="demo"):
    diffusion_digest.cache_clear()
    depth_network_digest.cache_clear()
    return [run.hash for run in expand([scene], {"base": options}, [0, 1], [], None, Path("nowhere"))]


def write_files(folder, files, content="{}"):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content)
    return folder


def test_runs_without_a_prior_keep_the_hashes_of_older_ledgers():
    (run,) = expand(["some/where/fern"], {"base": ["--geometry", "--prior-path", "x"]}, [2], [], None, Path("out"))
    data = dataclasses.replace(run.config.data, scene="fern", data_root=None)
    settings = dataclasses.replace(run.config, data=data, output=OutputConfig())
    assert run.hash == hashlib.sha256(to_json(settings)).hexdigest()[:16]
    assert settings.guidance.g1_weight is None


def test_other_weights_of_the_embedded_prior_are_other_runs(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        write_embedded_prior(folder)
    guided = [["--guidance", "g1", "--prior-path", str(folder)] for folder in folders]
    first = hashes(guided[0])
    assert first == hashes(guided[1])  # wherever they lie
    assert not set(first) & set(hashes(["--guidance", "g1"]))
    unguided = hashes([])
    weights = folders[0] / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
    assert not set(first) & set(hashes(guided[0]))
    assert hashes(guided[1]) == first and hashes([]) == unguided


def test_other_weights_of_the_terms_are_other_runs(monkeypatch):
    guided = ["--guidance", "ipsm"]
    first, own = hashes(guided), WEIGHTS["embedded"]
    assert hashes([*guided, "--g1-weight", str(own.g1)]) == first  # the same number, said or not
    unguided = hashes([])
    monkeypatch.setitem(WEIGHTS, "embedded", GuidanceWeights(own.sds, 2 * own.g1, own.g2))
    assert not set(first) & set(hashes(guided))
    assert hashes([*guided, "--g1-weight", str(own.g1)]) == first and hashes([]) == unguided


def test_other_files_of_stable_diffusion_and_of_the_depth_network_are_other_runs(tmp_path):
    plain = write_files(tmp_path / "sd" / "plain", needed_files(WHOLE))
    inpainting = write_files(tmp_path / "sd" / "inpainting", needed_files(("unet",)))
    for folder, channels in ((plain, 4), (inpainting, 9)):
        (folder / "unet" / "config.json").write_text(json.dumps({"in_channels": channels}))
    network = write_files(tmp_path / "dpt", ["config.json", "model.safetensors"], '{"model_type": "dpt"}')
    sd = ["--guidance", "sds", "--prior", "stable-diffusion", "--prior-path", str(tmp_path / "sd"), "--prompt", "x"]
    depth = ["--depth", "network", "--depth-path", str(network)]
    changes = [
        (sd, plain / "text_encoder" / "model.safetensors"),
        (sd, plain / "tokenizer" / "merges.txt"),
        (sd, inpainting / "unet" / "diffusion_pytorch_model.safetensors"),
        (depth, network / "model.safetensors"),
    ]
    for options, file in changes:
        before = hashes(options)
        file.with_name("README.md").write_text("no part of it")
        assert hashes(options) == before
        file.write_text("other weights")
        assert not set(hashes(options)) & set(before), file
    (network / "model.safetensors").unlink()
    with pytest.raises(PriorError, match="no complete depth network was found"):
        hashes(depth)
    (plain / "vae" / "config.json").unlink()
    with pytest.raises(PriorError, match=r"(?s)no complete plain Stable Diffusion .*--prior embedded"):
        hashes(sd)


def test_a_large_file_is_known_by_its_size_and_by_pieces_of_it(tmp_path):
    file = tmp_path / "large"
    seen = set()
    for size, place in ((LARGE + 1, 0), (LARGE + 2, 0), (LARGE + 2, LARGE + 1), (LARGE + 2, LARGE // 2 + 2**21)):
        with file.open("wb") as stream:  # with holes: it takes no room
            stream.truncate(size)
            for offset in range(0, 3 * 2**21, 2**20):  # of 6 MiB, some bytes are in a piece
                stream.seek(min(place + offset, size - 1))
                stream.write(b"\1")
            stream.truncate(size)
        seen.add(digest_of([file]))
    assert len(seen) == 4 and digest_of([file]) in seen


def test_a_run_is_not_trained_where_the_prior_is_another_one(monkeypatch, tmp_path):
    (run,) = expand(["demo"], {"ipsm": ["--guidance", "ipsm"]}, [0], [], None, tmp_path)
    run.check_here()
    own = WEIGHTS["embedded"]
    monkeypatch.setitem(WEIGHTS, "embedded", GuidanceWeights(own.sds, own.g1, 2 * own.g2))
    with pytest.raises(ConfigError, match=r"would be another run on .* than where the grid was started"):
        run.check_here()
    monkeypatch.setattr(grid.cluster, "_enter", lambda folder: None)
    (change,) = grid.cluster.train_task(str(tmp_path), [run], 0)
    assert (change.run, change.state) == (run.hash, "failed") and "another run" in change.values["error"]
    with pytest.raises(ConfigError, match="another run"):
        grid.cluster.plan_task(str(tmp_path), [run], {}, None, None, grid.cluster.Slots({"num_gpus": 0}, 1, 1))


def named_anew(scenes, out, seeds=2):
    """The runs of `base`, and the grid in which they are called `base dropout=0`."""

    def plan(methods, count):
        return expand([str(scenes / "one"), str(scenes / "two")], methods, range(count), options_for(scenes), None, out)

    return plan({"base": []}, 2), plan(vary({"base": []}, [("dropout", "0", "0.2")]), seeds)


def test_a_run_under_another_name_stays_in_its_folder(tmp_path):
    ledger, said = Ledger(tmp_path), []
    first, again = named_anew(write_scenes(tmp_path / "scenes"), tmp_path, seeds=1)
    with ledger.locked():
        assert ledger.waiting(first, said.append) == first
        said.clear()
        ledger.change(first[0], "finished", metrics={"psnr": 20.0})
        ledger.change(first[1], "running", facts={"batch": [run.hash for run in first[:2]]})
        waiting = ledger.waiting(again, said.append)
        assert said[0].startswith("'base' has the settings of 'base dropout=0': its runs stay in their folders")
        assert said[1:] == ["4 runs, 1 of them finished before"]
        assert [run.hash for run in waiting] == [run.hash for run in again if run.hash != first[0].hash]
        folders = {run.hash: run.folder for run in first} | {run.hash: run.folder for run in again[1::2]}
        assert all(run.folder == run.config.folder == folders[run.hash] for run in waiting)
        entries = ledger.entries()
        assert {entry.folder for entry in entries} == {str(run.folder) for run in (*first, again[1], again[3])}
    # The seed that the second grid does not have belongs to the same row.
    rows = {(row.scene, row.method): (row.seeds, row.unfinished) for row in rows_of(told_apart(entries))}
    assert rows["one", "base dropout=0"] == ([0], 1) and rows["one", "base dropout=0.2"] == ([], 1)
    assert {name for _, name in rows} == {"base dropout=0", "base dropout=0.2"}
    with ledger.locked():
        assert [run.folder for run in ledger.waiting(first, said.append)] == [run.folder for run in first[1:]]
        assert {entry.method for entry in ledger.entries()} == {"base", "base dropout=0.2"}


class Together:
    """Two processes of a grid in one, each of which sees what the other published."""

    processes, process = 2, 0

    def __init__(self, process=0, plan=None):
        self.process, self.plan, self.left = process, plan, [{"available": ("host", "cpu", 2**40)}, {"ended": None}]

    def say(self, sentence):
        pass

    def publish(self, key, value):
        self.plan = json.loads(json.dumps(value))

    def get(self, key):
        return self.plan

    def messages(self, more):
        while more():
            yield 1, self.left.pop(0)


def test_all_processes_train_in_the_folders_of_the_ledger(tmp_path, monkeypatch):
    trained, scenes = [], write_scenes(tmp_path / "scenes")
    monkeypatch.setattr(grid.hosts, "train_ready", lambda batch, *_: trained.extend(ready.run for ready in batch))
    first, again = named_anew(scenes, tmp_path)
    ledger, hosts = Ledger(tmp_path), Together()
    with ledger.locked():
        ledger.waiting(first, hosts.say)
        known = {run.hash: run for run in again}
        grid.hosts._lead(hosts, ledger, known, ("host", "cpu", 2**40), None, None)
    alone = len(trained)
    grid.hosts._follow(Together(1, hosts.plan), known)
    assert 0 < alone < len(trained) == 8
    assert {run.folder for run in trained} == {run.folder for run in (*first, *again)} - {
        run.folder for run in again if run.method == "base dropout=0"
    }
