"""The sanitizers understand the emulation: right kernels come out clean, and what is wrong is found and located."""

import subprocess

import pytest
from cuda_on_host import build

FOUND = {
    ("thread", "no_barrier"): "mistakes::reverse<false>",
    ("thread", "no_syncwarp"): "mistakes::shuffle_for_syncwarp",
    ("thread", "blocks_race"): "mistakes::blocks_share_a_sum",
    ("thread", "half_atomic"): "mistakes::atomic_and_plain",
    ("address,undefined", "beyond_shared"): "global-buffer-overflow",
    ("address,undefined", "beyond_template"): "global-buffer-overflow",
    ("address,undefined", "beyond_local"): "stack-buffer-overflow",
    ("address,undefined", "beyond_global"): "heap-buffer-overflow",
    ("address,undefined", "misaligned"): "misaligned address",
}


def run(sanitizer: str, *arguments: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    reason = build.missing_tool(sanitizer)
    if reason:
        pytest.skip(reason)
    return build.run(build.program([build.HERE / "examples_program.cu"], flags, sanitizer), *arguments)


@pytest.mark.parametrize("sanitizer", build.SANITIZERS)
def test_right_kernels_are_clean(sanitizer):
    result = run(sanitizer)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(("sanitizer", "mistake"), FOUND)
def test_found(sanitizer, mistake):
    result = run(sanitizer, mistake)
    assert result.returncode != 0
    assert FOUND[sanitizer, mistake] in result.stderr
    assert "mistakes.cuh" in result.stderr


def test_a_failed_kernel_is_a_failed_program():
    result = run("", "unheard of")
    assert result.returncode == 1
    assert "no mistake has the name unheard of" in result.stderr


def test_the_stack_switch_for_other_processors():
    result = run("", flags=("-DCUDA_ON_HOST_UCONTEXT",))
    assert (result.returncode, result.stderr) == (0, "")
