"""Triton kernels behind the layers: in the interpreter, compiled, on a GPU; and their choice."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lvt_d2.layers import CSA, MLP, AtrousQuery
from lvt_d2.layers.kernels import choice, eager_csa, fast_path, use_kernels

CASES = Path(__file__).with_name("triton_cases.py")
SHARED_MEMORY = 99 * 1024  # bytes of a program, on the GPUs from 8.0 that have the least

INTERPRETER_WORKS = """
import torch, triton, triton.language as tl

@triton.jit
def add(x, n):
    for i in range(0, n):
        tl.store(x, tl.load(x) + i)

x = torch.zeros(1)
add[(1,)](x, 5)
assert x.item() == 10
"""


@pytest.fixture
def fresh_choice():
    """A choice that knows nothing of Triton yet, during and after the test."""
    caches = (choice._triton_kernels, choice._warn_once, choice._capability)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def run(*arguments, interpret: bool) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": str(int(interpret))}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


def run_cases(*arguments, interpret: bool) -> None:
    """The cases in a process of their own: whoever imports Triton decides on the interpreter."""
    found = run("-m", "pytest", "-q", "-p", "no:cacheprovider", CASES, interpret=interpret)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]


def test_in_the_interpreter(tmp_path):
    pytest.importorskip("triton", minversion="3.2")
    probe = tmp_path / "probe.py"  # kernels are read from their file
    probe.write_text(INTERPRETER_WORKS)
    if run(probe, interpret=True).returncode:
        pytest.skip("Triton's interpreter can't run loops here: NumPy is too new for it")
    run_cases(interpret=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu():
    pytest.importorskip("triton", minversion="3.2")
    run_cases(interpret=False)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_kernels_compile_for_gpus(capability, dtype, monkeypatch):
    """Every kernel, as the layers start it, goes through the compiler; which needs no GPU."""
    triton = pytest.importorskip("triton", minversion="3.3")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lvt_d2.layers.kernels import triton_common, triton_csa, triton_mlp, triton_query

    if triton_common.INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set")
    pointers = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
    pointers[torch.int32] = "*i32"
    compiled = []

    def compile_only(kernel, *values, grid, warmup, **keywords):
        arguments = dict(zip(kernel.arg_names, values, strict=False))
        constants = {k: v for k, v in keywords.items() if k in kernel.arg_names}
        signature = {
            k: pointers[v.dtype] if isinstance(v, torch.Tensor) else "i32"
            for k, v in arguments.items()
        }
        signature.update(dict.fromkeys(constants, "constexpr"))
        code = triton.compile(
            ASTSource(kernel, signature, constants),
            target=GPUTarget("cuda", capability, 32),
            options={k: v for k, v in keywords.items() if k not in constants},
        )
        assert code.metadata.shared <= SHARED_MEMORY, kernel.__name__
        compiled.append(kernel.__name__)

    monkeypatch.setattr(triton.runtime.JITFunction, "run", compile_only)
    for layer, fast, C in (
        (CSA(64, 2), triton_csa.csa, 64),
        (CSA(128, 2), triton_csa.csa, 128),
        (MLP(64, 4, depthwise=False), triton_mlp.mlp, 64),
        (MLP(128, 4, depthwise=False), triton_mlp.mlp, 128),
        (MLP(64, 8, depthwise=True), triton_mlp.mlp, 64),
        (AtrousQuery(160), triton_query.atrous_query, 160),
    ):
        x = torch.randn(1, 4, 4, C, dtype=dtype, requires_grad=True)
        fast(layer.to(dtype), x).sum().backward()
    assert len(compiled) == 22


def test_on_a_cpu_eager_code_runs_and_a_warning_says_why(fresh_choice, monkeypatch, caplog):
    pytest.importorskip("triton", minversion="3.2")
    from lvt_d2.layers.kernels import triton_common as common

    monkeypatch.setattr(common, "INTERPRETED", False)
    layer, x = CSA(32, 1), torch.randn(1, 3, 4, 32)
    with use_kernels("triton"), caplog.at_level(logging.WARNING), torch.no_grad():
        assert fast_path("csa", x) is eager_csa.csa
        torch.testing.assert_close(layer(x), layer.reference(x))
    assert len(caplog.records) == 1
    assert "the input is on the cpu" in caplog.text and "TRITON_INTERPRET=1" in caplog.text


@pytest.mark.parametrize(
    ("module", "reason"),
    [(None, "Triton can't be imported"), ("old", "Triton is 3.1.0; the kernels were tested with")],
)
def test_without_a_triton_that_can_run(module, reason, fresh_choice, monkeypatch, caplog):
    if module == "old":
        module = type(sys)("triton")
        module.__version__ = "3.1.0"
    monkeypatch.setitem(sys.modules, "triton", module)
    with use_kernels("triton"), caplog.at_level(logging.WARNING):
        assert fast_path("csa", torch.zeros(1, 2, 2, 32)) is eager_csa.csa
    assert reason in caplog.text


class OnGpu:
    """What `choice` asks of a tensor."""

    is_cuda = True
    device = torch.device("cuda", 0)
    shape = (1, 8, 8, 64)

    def __init__(self, dtype: torch.dtype, shape=shape):
        self.dtype, self.shape = dtype, shape


@pytest.mark.parametrize(
    ("capability", "x", "reason"),
    [
        ((9, 0), OnGpu(torch.bfloat16), None),
        ((8, 6), OnGpu(torch.float16), None),
        ((7, 0), OnGpu(torch.float32), None),
        ((7, 5), OnGpu(torch.float16), "compute capability 7.5; Triton kernels in torch.float16"),
        ((6, 1), OnGpu(torch.float32), "compute capability 6.1; Triton kernels in torch.float32"),
        ((9, 0), OnGpu(torch.float64), "the input is torch.float64"),
        ((9, 0), OnGpu(torch.float32, (1, 40000, 40000, 64)), "images of (40000, 40000, 64)"),
    ],
)
def test_which_gpus_and_inputs(capability, x, reason, fresh_choice, monkeypatch):
    pytest.importorskip("triton", minversion="3.2")
    from lvt_d2.layers.kernels import triton_common as common

    monkeypatch.setattr(common, "INTERPRETED", False)
    monkeypatch.setattr(choice, "_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    found = choice._why_not_triton(x)
    assert found is None if reason is None else reason in found


def test_cpus_do_not_load_the_kernels():
    code = (
        "import lvt_d2, sys, torch; from lvt_d2.layers import CSA;"
        "CSA(32, 1)(torch.ones(1, 2, 2, 32));"
        "assert not [m for m in sys.modules if 'kernels.triton' in m]"
    )
    found = run("-c", code, interpret=False)
    assert found.returncode == 0, found.stderr
