"""How the build decides about CUDA: with scripts that pretend to be nvcc and nvidia-smi."""

import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
build = SimpleNamespace(**runpy.run_path(str(ROOT / "build_cuda.py")))

NVCC = """#!/bin/sh
case "$*" in
  *--dryrun*) echo '#$ INCLUDES="-I/toolkit/include"  ' >&2
              echo '#$ SYSTEM_INCLUDES="-isystem" "/toolkit/include/cccl"  ' >&2
              echo '#$ LIBRARIES=  "-L/toolkit/lib/stubs" "-L/toolkit/lib"' >&2 ;;
  *--list-gpu-arch*) printf 'compute_80\\ncompute_90\\ncompute_120\\n' ;;
  *) echo "unsupported GNU version!" >&2; exit 1 ;;
esac
"""


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that comes first on the PATH, with a toolkit for 80, 90, 120 and no GPU."""
    for variable in ("IPSM_JAX_CUDA", "IPSM_JAX_CUDA_ARCHS", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    script(tmp_path, "nvcc", NVCC)
    script(tmp_path, "nvidia-smi", "#!/bin/sh\necho 'no devices were found' >&2\nexit 6\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_the_toolkit_tells_where_its_files_are(programs):
    toolkit, architectures = build.plan()
    assert toolkit.nvcc == str(programs / "nvcc")
    assert toolkit.include_dirs == ["/toolkit/include", "/toolkit/include/cccl"]
    assert toolkit.library_dirs == ["/toolkit/lib/stubs", "/toolkit/lib"]
    assert architectures == [80, 90, 120]


def test_the_gpus_in_the_machine_are_enough(programs):
    script(programs, "nvidia-smi", "#!/bin/sh\nprintf '9.0\\n8.0\\n9.0\\n'\n")
    assert build.plan()[1] == [80, 90]
    # one that nvcc does not know yet: what it knows, with an intermediate form for later ones
    script(programs, "nvidia-smi", "#!/bin/sh\nprintf '13.1\\n'\n")
    assert build.plan()[1] == [80, 90, 120]


def test_architectures_can_be_chosen(programs, monkeypatch):
    monkeypatch.setenv("IPSM_JAX_CUDA_ARCHS", "120; 80,80")
    assert build.plan()[1] == [80, 120]
    assert build.code_flags([80, 120]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


@pytest.mark.parametrize(("asked", "message"), [("9.0", '"9.0" is no number such as 90'), ("85", "knows 80, 90, 120")])
def test_impossible_architectures_are_refused(programs, monkeypatch, asked, message):
    monkeypatch.setenv("IPSM_JAX_CUDA_ARCHS", asked)
    with pytest.raises(build.CudaBuildError, match=message):
        build.plan()


def test_the_switch(programs, monkeypatch):
    monkeypatch.setenv("IPSM_JAX_CUDA", "0")
    assert build.plan() is None
    monkeypatch.setenv("IPSM_JAX_CUDA", "yes")
    with pytest.raises(build.CudaBuildError, match='"yes" is none of 0, 1, auto'):
        build.plan()


def test_no_toolkit(programs, monkeypatch):
    monkeypatch.setitem(build.plan.__globals__, "find_nvcc", lambda: None)
    assert build.plan() is None
    monkeypatch.setenv("IPSM_JAX_CUDA", "1")
    with pytest.raises(build.CudaBuildError, match=r"no nvcc.*Install the CUDA toolkit.*IPSM_JAX_CUDA=0"):
        build.plan()


def test_cuda_home_comes_first(programs, monkeypatch, tmp_path):
    elsewhere = script(tmp_path / "elsewhere", "bin/nvcc", NVCC)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "elsewhere"))
    assert build.find_nvcc() == str(elsewhere)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert build.find_nvcc() == str(programs / "nvcc")


def test_a_compiler_that_fails_is_no_build_without_cuda(programs, monkeypatch, tmp_path):
    """Not dropped in silence: the message holds what nvcc said and how to go on."""
    monkeypatch.chdir(ROOT)
    toolkit, architectures = build.plan()
    with pytest.raises(build.CudaBuildError, match=r"(?s)unsupported GNU version!.*IPSM_JAX_CUDA=0"):
        build.compile_kernels(toolkit, architectures, tmp_path / "objects")


def test_a_broken_toolkit(programs):
    script(programs, "nvcc", "#!/bin/sh\necho 'no such program' >&2\nexit 127\n")
    with pytest.raises(build.CudaBuildError, match=r"(?s)does not tell where its headers are.*no such program"):
        build.plan()


def test_the_real_toolkit_has_what_the_build_asks_for(monkeypatch):
    for variable in ("IPSM_JAX_CUDA", "IPSM_JAX_CUDA_ARCHS"):
        monkeypatch.delenv(variable, raising=False)
    planned = build.plan()
    if planned is None:
        pytest.skip("there is no CUDA toolkit here")
    toolkit, architectures = planned
    assert any((Path(folder) / "cuda_runtime.h").is_file() for folder in toolkit.include_dirs)
    assert any((Path(folder) / "libcudart_static.a").is_file() for folder in toolkit.library_dirs)
    assert set(architectures) <= set(toolkit.architectures)
