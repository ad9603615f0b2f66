"""Where weights are looked for: the folder given, the variable, ./priors, Hugging Face's cache; and what is said."""

import json
import shutil
from itertools import permutations

import pytest
from tiny_checkpoint import write_pair

from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.locate import DEPTH, INPAINTING, PLAIN, find_depth_network, find_stable_diffusion
from ipsm_jax.priors.stable_diffusion import check_stable_diffusion

OFFICIAL = ("stable-diffusion-v1-5", "stable-diffusion-inpainting")
CHANNELS = {PLAIN: 4, INPAINTING: 9}


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    """No place has anything; the current folder is tmp_path/work."""
    for name in ("IPSM_JAX_PRIORS", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def write(folder, model, leave_out=()):
    """The files of a model, empty but for the config.json that tells its kind."""
    for file in model.files:
        if file not in leave_out:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text("")
    config = folder / ("config.json" if model is DEPTH else "unet/config.json")
    if config.exists():
        config.write_text(json.dumps({"model_type": "dpt"} if model is DEPTH else {"in_channels": CHANNELS[model]}))
    return folder


def write_both(root, names=OFFICIAL):
    return write(root / names[0], PLAIN), write(root / names[1], INPAINTING)


def snapshot(cache, repository, commit, main=True):
    """The folder that a commit of a repository has in Hugging Face's cache."""
    repository = cache / f"models--{repository.replace('/', '--')}"
    if main:
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit


def refusal(find, path=None):
    with pytest.raises(PriorError) as caught:
        find(path)
    return str(caught.value)


@pytest.mark.parametrize("names", [OFFICIAL, ("sd", "fill"), ("b", "a"), ("inpainting", "plain")])
def test_sub_folders_are_told_apart_by_their_channels(tmp_path, names):
    expected = write_both(tmp_path, names)
    assert find_stable_diffusion(tmp_path) == expected


def test_what_is_found_can_be_loaded(tmp_path):
    plain, inpainting = write_pair(tmp_path)
    assert find_stable_diffusion(tmp_path) == (plain, inpainting)
    assert check_stable_diffusion(*find_stable_diffusion(tmp_path)).inpaint_config.in_channels == 9


def test_the_folder_itself_is_the_plain_model(tmp_path):
    plain = write(tmp_path / "models" / "sd", PLAIN)
    beside = write(tmp_path / "models" / "fill", INPAINTING)
    assert find_stable_diffusion(plain) == (plain, beside)
    inside = write(plain / "inpainting", INPAINTING)
    assert find_stable_diffusion(plain) == (plain, inside)
    assert find_stable_diffusion(beside) == (plain, beside)


def test_a_relative_folder_has_a_folder_around_it(tmp_path, monkeypatch):
    plain, beside = write_both(tmp_path / "models")
    monkeypatch.chdir(plain)
    found = find_stable_diffusion(plain.relative_to(plain))
    assert [folder.resolve() for folder in found] == [plain, beside]


def test_of_an_inpainting_model_the_u_net_is_enough_but_not_of_a_plain_one(tmp_path):
    assert set(INPAINTING.files) == {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
    assert {file.split("/")[0] for file in PLAIN.files} == {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    for left_out in PLAIN.files:
        folder = tmp_path / left_out.replace("/", "-")
        write_both(folder)
        (folder / OFFICIAL[0] / left_out).unlink()
        assert left_out in refusal(find_stable_diffusion, folder)


def test_names_of_repositories_win_over_others_and_others_must_be_single(tmp_path):
    plain, inpainting = write_both(tmp_path)
    write(tmp_path / "a-fine-tuned-one", PLAIN)
    write(tmp_path / "and-another", PLAIN)
    assert find_stable_diffusion(tmp_path) == (plain, inpainting)
    shutil.rmtree(plain)
    message = refusal(find_stable_diffusion, tmp_path)
    assert "holds 2 folders with a plain Stable Diffusion: a-fine-tuned-one, and-another; give one of them" in message
    assert find_stable_diffusion(tmp_path / "and-another") == (tmp_path / "and-another", inpainting)


def places(tmp_path, monkeypatch):
    """The usual places, in the order they are looked in."""
    monkeypatch.setenv("IPSM_JAX_PRIORS", str(tmp_path / "variable"))
    return [tmp_path / "variable", tmp_path / "work" / "priors", tmp_path / "home" / ".cache" / "huggingface" / "hub"]


@pytest.mark.parametrize("first", range(3))
def test_the_usual_places_are_looked_in_one_after_the_other(tmp_path, monkeypatch, first):
    for place in places(tmp_path, monkeypatch)[first:]:
        expected = write_both(place)
        if place == places(tmp_path, monkeypatch)[first]:
            wanted = expected
    assert [folder.resolve() for folder in find_stable_diffusion()] == list(wanted)


@pytest.mark.parametrize("order", list(permutations(range(3), 2)))
def test_each_model_is_looked_for_on_its_own(tmp_path, monkeypatch, order):
    at = places(tmp_path, monkeypatch)
    plain, inpainting = write(at[order[0]] / "p", PLAIN), write(at[order[1]] / "i", INPAINTING)
    assert [folder.resolve() for folder in find_stable_diffusion()] == [plain, inpainting]


def test_a_folder_given_is_the_only_place(tmp_path, monkeypatch):
    for place in places(tmp_path, monkeypatch):
        write_both(place)
        write(place / "depth", DEPTH)
    (tmp_path / "given").mkdir()
    for find in (find_stable_diffusion, find_depth_network):
        message = refusal(find, tmp_path / "given")
        assert f"the folder given = {tmp_path / 'given'}" in message
        assert not any(str(place) in message for place in places(tmp_path, monkeypatch))
        assert f"the folder given = {tmp_path / 'nowhere'}\n    no such folder" in refusal(find, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("variables", "cache"),
    [
        ({}, "home/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/huggingface/hub"),
        ({"XDG_CACHE_HOME": "xdg", "HF_HOME": "hf"}, "hf/hub"),
        ({"XDG_CACHE_HOME": "xdg", "HF_HOME": "hf", "HF_HUB_CACHE": "cache"}, "cache"),
    ],
)
def test_the_cache_is_where_hugging_face_puts_it(tmp_path, monkeypatch, variables, cache):
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    plain = write(snapshot(tmp_path / cache, PLAIN.repositories[0], "1f2e"), PLAIN)
    inpainting = write(snapshot(tmp_path / cache, INPAINTING.former[0], "ab34"), INPAINTING)
    assert find_stable_diffusion() == (plain, inpainting)
    assert find_stable_diffusion(tmp_path / cache) == (plain, inpainting)


def test_the_snapshot_of_main_wins_and_an_incomplete_one_does_not_count(tmp_path):
    cache, repository = tmp_path / "cache", INPAINTING.repositories[0]
    write(tmp_path / "cache" / "plain", PLAIN)
    older = write(snapshot(cache, INPAINTING.former[-1], "0000"), INPAINTING)
    assert find_stable_diffusion(cache)[1] == older
    commits = [write(snapshot(cache, repository, commit, main=False), INPAINTING) for commit in ("aaaa", "bbbb")]
    assert find_stable_diffusion(cache)[1] == commits[0]
    snapshot(cache, repository, "bbbb")
    assert find_stable_diffusion(cache)[1] == commits[1]
    (commits[1] / INPAINTING.files[-1]).unlink()
    (commits[1] / INPAINTING.files[-1]).symlink_to(cache / "a blob that is not there")
    assert find_stable_diffusion(cache)[1] == commits[0]


def test_nothing_anywhere(tmp_path, monkeypatch):
    message = refusal(find_stable_diffusion)
    assert message.startswith(
        "no complete plain Stable Diffusion and no complete inpainting Stable Diffusion was found in\n"
    )
    for line in (
        "- $IPSM_JAX_PRIORS: not set",
        f"- ./priors = {tmp_path / 'work/priors'}\n    no such folder",
        f"- Hugging Face's cache = {tmp_path / 'home/.cache/huggingface/hub'}\n    no such folder",
        "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 ",
        "--local-dir priors/stable-diffusion-v1-5",
        "hf download stable-diffusion-v1-5/stable-diffusion-inpainting unet/config.json "
        "unet/diffusion_pytorch_model.safetensors --local-dir priors/stable-diffusion-inpainting",
    ):
        assert line in message
    assert ".bin" not in message and ".ckpt" not in message
    monkeypatch.setenv("IPSM_JAX_PRIORS", str(tmp_path / "my models"))
    assert f"--local-dir '{tmp_path}/my models/stable-diffusion-inpainting'" in refusal(find_stable_diffusion)


def test_a_partial_folder_says_what_is_there_and_what_is_not(tmp_path):
    write_both(tmp_path)
    (tmp_path / OFFICIAL[0] / "vae" / "diffusion_pytorch_model.safetensors").rename(
        tmp_path / OFFICIAL[0] / "vae" / "diffusion_pytorch_model.bin"
    )
    (tmp_path / OFFICIAL[0] / "tokenizer" / "merges.txt").unlink()
    message = refusal(find_stable_diffusion, tmp_path)
    assert message.startswith("no complete plain Stable Diffusion was found in")
    assert (
        "stable-diffusion-v1-5: plain Stable Diffusion, incomplete: there are unet/config.json, unet/diffusion_pytorch"
        in message
    )
    assert (
        "missing are vae/diffusion_pytorch_model.safetensors, tokenizer/merges.txt "
        "(vae/diffusion_pytorch_model.bin can run code when opened and is not read)" in message
    )
    assert "stable-diffusion-inpainting: inpainting Stable Diffusion, complete" in message
    assert f"The inpainting Stable Diffusion is {tmp_path / OFFICIAL[1]}." in message
    assert message.count("hf download") == 1
    assert f"--local-dir {tmp_path / OFFICIAL[0]}" in message


def test_the_plain_model_alone_is_told_where_the_other_one_may_lie(tmp_path):
    plain = write(tmp_path / "models" / "sd", PLAIN)
    message = refusal(find_stable_diffusion, plain)
    assert (
        "no complete inpainting Stable Diffusion was found" in message
        and "itself: plain Stable Diffusion, complete" in message
    )
    assert f"--local-dir {tmp_path / 'models' / 'stable-diffusion-inpainting'}" in message
    write(tmp_path / "models" / "stable-diffusion-inpainting", INPAINTING)
    assert find_stable_diffusion(plain)[0] == plain


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"in_channels": 8}', "in_channels 8, where 4 is plain and 9 inpainting"),
        ('{"in_channels": [4]}', "in_channels [4]"),
        ("{}", "in_channels None"),
        ("{", "is not readable as JSON"),
        (None, "has no unet/config.json; there: unet/diffusion_pytorch_model.safetensors, vae/config.json"),
    ],
)
def test_a_folder_that_is_neither(tmp_path, content, said):
    write_both(tmp_path)
    config = tmp_path / OFFICIAL[0] / "unet" / "config.json"
    config.unlink() if content is None else config.write_text(content)
    message = refusal(find_stable_diffusion, tmp_path)
    assert f"{OFFICIAL[0]}: " in message and said in message


def test_files_in_place_of_folders(tmp_path):
    file = tmp_path / "v1-5-pruned.ckpt"
    file.write_text("")
    assert "is a pickle, which can run code when opened" in refusal(find_stable_diffusion, file)
    assert "a file, not a folder" in refusal(find_depth_network, file)


def test_a_folder_of_something_else_says_what_is_inside(tmp_path):
    for name in "abcdefghij":
        (tmp_path / name).mkdir()
    assert "nothing of it; folders there: a, b, c, d, e, f, g, h, ..." in refusal(find_stable_diffusion, tmp_path)


@pytest.mark.parametrize("kind", ["dpt", "depth_anything"])
def test_a_depth_network_is_found_in_the_folder_itself_or_below(tmp_path, kind):
    folder = write(tmp_path / "network", DEPTH)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    assert find_depth_network(folder) == find_depth_network(tmp_path) == folder
    small = write(tmp_path / "Depth-Anything-V2-Small-hf", DEPTH)
    assert find_depth_network(tmp_path) == small
    paper = write(snapshot(tmp_path, "Intel/dpt-hybrid-midas", "77"), DEPTH)
    assert find_depth_network(tmp_path) == small  # a folder of the name comes before the cache
    shutil.rmtree(small)
    assert find_depth_network(tmp_path) == paper


@pytest.mark.parametrize("stored", ["model.fp16.safetensors", "model.safetensors.index.json"])
def test_a_depth_network_is_complete_however_its_weights_are_stored(tmp_path, stored):
    folder = write(tmp_path / "network", DEPTH)
    (folder / "model.safetensors").rename(folder / stored)
    assert find_depth_network(tmp_path) == folder


def test_depth_networks_that_cannot_be_used(tmp_path):
    folder = write(tmp_path / "dpt-hybrid-midas", DEPTH, leave_out=["model.safetensors"])
    (folder / "pytorch_model.bin").write_text("")
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "config.json").write_text('{"model_type": "clip"}')
    message = refusal(find_depth_network, tmp_path)
    assert (
        "dpt-hybrid-midas: depth network, incomplete: there are config.json; missing are model.safetensors" in message
    )
    assert "(pytorch_model.bin can run code when opened and is not read)" in message
    assert "clip: config.json has model_type 'clip'" in message
    for repository in DEPTH.repositories:
        name = repository.split("/")[1]
        assert f"hf download {repository} {' '.join(DEPTH.files)} --local-dir {tmp_path / name}" in message


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    assert refusal(find_depth_network, tmp_path) == (
        f"looking for weights: {tmp_path} cannot be read (Permission denied)"
    )
