"""The README keeps its promises: its Python example runs, its commands and files exist."""

import re
import shlex
from pathlib import Path

import numpy as np

from ipsm_jax import __main__, config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_example_runs():
    (example,) = blocks("python")
    names = {}
    exec(example, names)
    assert names["image"].shape == (96, 128, 3)
    assert np.max(names["image"]) > 0.1
    assert np.any(names["gradient"].means)
    assert len(example.strip().splitlines()) <= 12


def test_commands_exist_and_their_options_parse():
    commands = [line for block in blocks("bash") for line in block.splitlines() if re.search(r"ipsm[-_]jax[ .]", line)]
    assert len(commands) >= 4
    for line in commands:
        words = shlex.split(line.split("#")[0])
        name = words[1] if words[0] == "ipsm-jax" else words[2].removeprefix("ipsm_jax.")
        assert name in __main__.COMMANDS, line
        if name == "train":
            arguments = words[2:] if words[0] == "ipsm-jax" else words[3:]
            assert config.parse_command_line(arguments).data.scene


def test_commands_of_experiments_exist_and_know_their_options():
    commands = [line for block in blocks("bash") for line in block.splitlines() if "python experiments/" in line]
    assert len(commands) >= 10
    for line in commands:
        words = shlex.split(line.split("#")[0].split(" && ")[-1])
        own, trainings = words[1:], []
        if "--" in own:
            own, trainings = own[: own.index("--")], own[own.index("--") + 1 :]
        script = ROOT / own[0]
        family = [
            script,
            *(ROOT / "experiments" / f"{name}.py" for name in re.findall(r"from (\w+) import", script.read_text())),
        ]
        known = "".join(path.read_text() for path in family if path.exists())
        for option in (word for word in own if word.startswith("--")):
            assert f'"{option}"' in known, line
        assert config.parse_command_line(["--scene", "fern", *trainings]), line


def test_linked_files_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    for link in links + re.findall(r'src="([^"]+)"', README):
        assert (ROOT / link).exists(), link


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README
