"""`ipsm-jax doctor` and the command dispatcher."""

import importlib
import importlib.metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from ipsm_jax import __main__, doctor
from ipsm_jax.rasterizer import native


def test_doctor_reports_what_matters(capsys):
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    for word in (
        "jaxlib",
        "native rasterizer",
        "SIMD level",
        "CUDA kernels",
        "kernels",
        "devices",
        "LPIPS weights",
        "embedded prior",
        "diffusion weights",
        "depth network",
        "XLA FFI",
    ):
        assert word in text
    (prior,) = [line for line in text.splitlines() if "embedded prior" in line]
    assert "ok" in prior


def test_doctor_fails_when_the_native_library_does_not_fit(monkeypatch, capsys):
    def refuse():
        raise native.NativeUnavailableError("built for [XLA] FFI 9.9; install a newer jaxlib")

    monkeypatch.setattr(native, "load_library", refuse)
    assert doctor.main([]) == 1
    assert "install a newer jaxlib" in " ".join(capsys.readouterr().out.split())


def test_doctor_tells_how_to_get_kernels_for_a_gpu(monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    library = SimpleNamespace(ffi_api_version=(0, 3), simd_level=lambda: "avx2", cuda_architectures="")
    monkeypatch.setattr(native, "load_library", lambda: library)
    found = {f.topic: f for f in doctor.native_findings()}["CUDA kernels"]
    assert found.ok is False
    assert "IPSM_JAX_CUDA=1" in found.text


def test_doctor_names_the_remedy_for_missing_packages(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = {f.topic: f for f in doctor.package_findings()}
    assert findings["optax"].ok is False
    assert 'pip install "optax"' in findings["optax"].text
    assert findings["pycolmap"].ok is None
    assert "ipsm_jax[sfm]" in findings["pycolmap"].text


@pytest.fixture
def priors(tmp_path, monkeypatch):
    """The only place where weights can be."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPSM_JAX_PRIORS", str(tmp_path / "priors"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "priors"


def test_doctor_tells_where_weights_of_priors_were_looked_for(priors):
    found = {f.topic: f for f in doctor.prior_findings()}
    for topic, repository in (
        ("diffusion weights", "stable-diffusion-v1-5/stable-diffusion-inpainting"),
        ("depth network", "Intel/dpt-hybrid-midas"),
    ):
        assert found[topic].ok is None
        for part in (f"$IPSM_JAX_PRIORS = {priors}", f"cache = {priors.parent / 'cache'}", f"hf download {repository}"):
            assert part in found[topic].text


def test_doctor_checks_the_weights_of_priors_it_finds(priors, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "priors")
    plain, inpainting = importlib.import_module("tiny_checkpoint").write_pair(priors)
    tiny_depth = importlib.import_module("tiny_depth")
    tiny_depth.write_depth_network(priors / "network", tiny_depth.HYBRID)
    _, diffusion, depth = doctor.prior_findings()
    assert diffusion.ok is depth.ok is True
    assert f"plain: {plain}; inpainting: {inpainting}" in diffusion.text
    assert depth.text.startswith("dpt, complete, ") and depth.text.endswith(f"in {priors / 'network'}")
    weights = inpainting / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    (priors / "network" / "model.safetensors").write_text("")
    _, diffusion, depth = doctor.prior_findings()
    assert depth.ok is None and str(priors / "network") in depth.text
    assert diffusion.ok is None and f"{weights} " in diffusion.text and "damaged or cut off" in diffusion.text


@pytest.mark.parametrize("command", __main__.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        __main__.main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_dispatcher(capsys, monkeypatch):
    assert __main__.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in __main__.COMMANDS)
    assert __main__.main(["--version"]) == 0
    assert __main__.main(["trian"]) == 2
    assert "no command 'trian'" in capsys.readouterr().err
    monkeypatch.setattr(doctor, "main", lambda argv: len(argv))
    assert __main__.main(["doctor", "a", "b"]) == 2
