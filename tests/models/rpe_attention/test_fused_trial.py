"""The trial before fused attention is used: what fails in it is said once, and done without."""

import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from argument_checks import check_attention
from models.rpe_attention import RPEMultiheadAttention
from rpe_ops.attention import fused, fused_check, sdpa, trial
from rpe_ops.attention.check import lines_of
from rpe_ops.irpe import get_rpe_config
from tests.helpers.commands import ROOT, RPE
from tests.models.rpe_attention.fused_cases import HEADS, needs_triton
from util.errors import UserError

FUSED = ["--attention", "fused", "--enc_rpe2d", RPE, "--hidden_dim", "16", "--nheads", "2"]
CPU = torch.device("cpu")
pytestmark = [
    needs_triton,
    pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter stands in for a GPU"),
]


@pytest.fixture(autouse=True)
def interpreter_is_a_gpu(monkeypatch):
    """Let `auto` prefer fused attention on the CPU, and try it there, on a small map."""
    monkeypatch.setattr(trial, "DEVICES", ("cpu",))
    for name in ("_failures", "_passed", "_passed_on", "_said"):
        monkeypatch.setattr(trial, name, type(getattr(trial, name))())
    monkeypatch.setattr(fused_check, "MAPS", ((3, 8),))
    monkeypatch.setattr(fused_check, "HEADS", 1)
    monkeypatch.setattr(
        "rpe_ops.attention.backends.candidates",
        lambda attention, *_: {"fused": (fused,), "sdpa": (sdpa,)}.get(attention, (fused, sdpa)),
    )


@pytest.fixture
def trials(monkeypatch):
    """Record the kinds of calls that are tried."""
    found, run = [], trial.run

    def recorded(kind):
        found.append(kind)
        return run(kind)

    monkeypatch.setattr(trial, "run", recorded)
    return found


def attend(attention, layer=None, train=False, dtype=torch.float32):
    """The output of a layer on a map of 3 x 4: backends differ in the last bits."""
    if layer is None:
        layer = RPEMultiheadAttention(HEADS * 8, HEADS, dropout=0.5, rpe_config=get_rpe_config(2.0))
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    layer.to(dtype).train(train).attention = attention
    x = torch.randn(12, 1, HEADS * 8, dtype=dtype)
    return layer(x, x, x, need_weights=False, hw=(3, 4))[0]


def attend_twice(*, expected: str):
    """Both outputs are those of sdpa; one warning, of one line, says why. Returns the warning."""
    trial_off = attend("sdpa")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # NumPy interprets the kernels, and may warn of what lies beyond the end of a tile; garbage
        # of other tests may be collected.
        warnings.filterwarnings("ignore", ".* encountered in", RuntimeWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(2):
            assert torch.equal(attend("auto"), trial_off)
        assert torch.equal(attend("auto", dtype=torch.float64), attend("sdpa", dtype=torch.float64))
    (line,) = [str(warning.message) for warning in caught]
    assert re.search(expected, line), line
    assert "\n" not in line and f"torch {torch.__version__}, triton " in line and "cpu" in line
    return line


# ---- what it finds ----


def test_kernels_that_work_are_used_after_one_trial_a_kind(trials):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".* encountered in", RuntimeWarning)
        for _ in range(2):
            assert torch.equal(attend("auto"), attend("fused"))
            assert not torch.equal(attend("auto"), attend("sdpa"))
            attend("auto", train=True)
            attend("auto", dtype=torch.bfloat16)
    kinds = [(kind.dtype, kind.dropout) for kind in trials]
    assert kinds == [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
    assert trials[0].head_dim == 8 and trials[0].term_q is None and trials[0].term_k is not None


@pytest.mark.parametrize("version", ["3.2.0", "2.1.0+git1234"])
def test_an_older_triton_is_not_tried(version, monkeypatch, trials):
    monkeypatch.setattr("triton.__version__", version)
    line = attend_twice(expected=f"Triton {re.escape(version)} is older than 3.3$")
    assert f"triton {version}" in line and trials == []
    with pytest.raises(ValueError, match=f"Triton {re.escape(version)} is older than 3.3"):
        attend("fused")


@pytest.mark.parametrize("version", ["3.3.0", "3.10.1+gitb", "4.0"])
def test_newer_tritons_are(version, monkeypatch):
    monkeypatch.setattr("triton.__version__", version)
    assert fused.why_not_device(CPU) is None


ERRORS = {
    "no compiler": (
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
        "RuntimeError: Failed to find C compiler",
    ),
    "several lines": (ValueError("\n  at 12:4:\n  code\n"), r"ValueError: at 12:4: \(float32"),
    "no text": (MemoryError(), "MemoryError"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_kernel_that_fails_is_tried_once(name, monkeypatch, trials):
    error, said = ERRORS[name]

    def fail(*_, **options):
        raise error

    monkeypatch.setattr(fused, "fused_attention", fail)
    attend_twice(expected=said)
    assert len(trials) == 1
    attend("auto", train=True)  # other kernels, which are not tried on a device that has failed
    assert len(trials) == 1


def wrong(which: str):
    """fused_attention with a fault in one of its results."""
    right = fused.fused_attention

    def function(q, k, v, maps, term_k, term_q, buckets_v, padding, *dropout):
        if which == "gradient of v":
            v = v * 1.001 - v.detach() * 0.001
        if which == "gradient of the table":
            table = term_k.table * 1.001 - term_k.table.detach() * 0.001
            term_k = term_k._replace(table=table)
        if which == "buckets":
            buckets = term_k.buckets._replace(offsets=term_k.buckets.offsets.flip(1))
            term_k = term_k._replace(buckets=buckets)
        if which == "padding":
            padding = None
        out, sums = right(q, k, v, maps, term_k, term_q, buckets_v, padding, *dropout)
        if which == "output":
            out = out + out.detach() * 0.001
        if which == "sums":
            sums = sums + sums.detach() * 0.001
        return out * (float("nan") if which == "nan" else 1), sums

    return function


WRONG = {
    "output": "output differs", "gradient of v": "v differs", "buckets": "differs",
    "gradient of the table": "table of k differs", "padding": "differs", "nan": "by nan",
}  # fmt: skip


@pytest.mark.parametrize("which", WRONG)
def test_wrong_numbers_are_noticed(which, monkeypatch):
    monkeypatch.setattr(fused, "fused_attention", wrong(which))
    attend_twice(expected=WRONG[which])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p, seed: (0.0, None), "share of weights"),
        (lambda p, seed: (0.5, seed), "share of weights"),
        (lambda p, seed: (0.26, seed), "differs"),  # the rest is scaled by the wrong number
    ],
)
def test_wrong_dropout_is_noticed(change, said, monkeypatch):
    right = fused.fused_attention
    monkeypatch.setattr(
        fused, "fused_attention", lambda *inputs: right(*inputs[:-2], *change(*inputs[-2:]))
    )
    with_dropout = trial.kinds(get_rpe_config(2.0), 8, CPU, torch.float32)[1]
    assert said in trial.run(with_dropout).problem


@pytest.mark.parametrize("mode", ["ctx", "bias"])
def test_the_formula_is_the_reference(mode, monkeypatch):
    """Of `cross`, bias, RPE on all, extra tokens, two maps and padding, in 16 bits."""
    on = "qk" if mode == "bias" else "qkv"
    config = get_rpe_config(2.0, "cross", mode, skip=1, rpe_on=on)
    for kind in trial.kinds(config, 8, CPU, torch.float16):
        outcome = trial.run(kind._replace(extra=True, two_maps=mode == "ctx"))
        assert outcome.problem is None and 0 < outcome.difference < 2e-3


def test_wrong_sums_are_noticed(monkeypatch):
    monkeypatch.setattr(fused, "fused_attention", wrong("sums"))
    kind = trial.kinds(get_rpe_config(2.0, rpe_on="v"), 8, CPU, torch.float32)[0]
    assert "sums differs" in trial.run(kind).problem


# ---- what it leaves alone ----


def test_the_caller_keeps_its_random_streams_and_modes():
    layer = RPEMultiheadAttention(HEADS * 8, HEADS, dropout=0.5, rpe_config=get_rpe_config(2.0))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    kinds = trial.kinds(get_rpe_config(2.0), 8, CPU, torch.float32)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert [trial.failure(kind) for kind in kinds] == [None, None]
        assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")
    with torch.device("meta"), torch.no_grad():
        trial._passed.clear()
        assert trial.failure(kinds[0]) is None
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    outs = [attend("auto", layer, train=True) for _ in range(2)]
    assert torch.equal(*outs)  # the first was after a trial, the second without


def test_a_graph_has_no_trial_in_it(trials):
    layer = RPEMultiheadAttention(HEADS * 8, HEADS, rpe_config=get_rpe_config(2.0)).eval()
    compiled = torch.compile(layer, backend="eager")
    assert torch.equal(attend("auto", compiled), attend("sdpa"))
    assert trials == []
    wanted = attend("auto")
    assert len(trials) == 1
    assert torch.equal(attend("auto", compiled), wanted)  # passed: the graph is made again


# ---- --attention fused ----


def test_asked_for_explicitly_it_is_an_error(monkeypatch, args):
    monkeypatch.setattr(fused, "fused_attention", wrong("output"))
    options = args(
        "--attention", "fused", "--enc_rpe2d", RPE, "--hidden_dim", "16", "--nheads", "2"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".* encountered in", RuntimeWarning)
        with pytest.raises(ValueError, match="fused attention is not supported here: output diff"):
            attend("fused")
        with pytest.raises(UserError, match=r"--attention fused: its trial on cpu .* output diff"):
            check_attention(options, CPU)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("mode", ["ctx", "bias"])
@pytest.mark.parametrize("method", ["cross", "quant"])
def test_a_run_is_tried_as_its_layers_call(method, mode, amp, monkeypatch):
    """Or each layer would be tried again."""
    found = []
    monkeypatch.setattr(
        trial, "run", lambda kind: found.append(kind) or fused_check.Outcome(None, 0.0, 0.0)
    )
    config = get_rpe_config(2.0, method, mode, shared_head=False, rpe_on="qk")
    layer = RPEMultiheadAttention(HEADS * 8, HEADS, dropout=0.5, rpe_config=config)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        for train in (False, True):
            attend("fused", layer, train)
    dtype = torch.bfloat16 if amp else torch.float32
    assert tuple(found) == trial.kinds(config, 8, CPU, dtype)


def test_a_run_tries_what_it_needs(args, trials):
    check_attention(args(*FUSED, "--amp", "bf16", "--eval"), CPU)
    assert [(kind.dtype, kind.dropout) for kind in trials] == [(torch.bfloat16, False)]
    check_attention(args(*FUSED), CPU)
    assert [(kind.dtype, kind.dropout) for kind in trials[1:]] == [
        (torch.float32, False), (torch.float32, True),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_command_shows_all_trials(monkeypatch):
    lines = list(lines_of(CPU))
    assert len(lines) == 12 and all(ok and ": ok, difference " in line for line, ok in lines)
    assert sum("extra tokens" in line for line, _ in lines) == 6
    monkeypatch.setattr(fused, "fused_attention", wrong("output"))
    line, ok = next(lines_of(CPU))
    assert "FAILED, output differs" in line and not ok
    code = [sys.executable, "-m", "rpe_ops", "--check"]
    done = subprocess.run(code, cwd=ROOT, env={"TRITON_INTERPRET": "0"}, capture_output=True)
    assert done.returncode == 0 and b"not fused: it runs on CUDA devices" in done.stdout
