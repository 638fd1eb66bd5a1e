"""Recording: what torch allocates, with fake tensors and with real ones."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from warploom import memory

torch = pytest.importorskip("torch")
nn = torch.nn


def labels(trace: memory.Trace, request: int) -> tuple[str, str]:
    return trace.phases[trace.phase[request]], trace.sites[trace.site[request]]


def net():
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 8))


def training_step():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)

    def step() -> None:
        loss = model(torch.ones(32, 64)).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.parametrize("fake", [True, False])
def test_every_storage_is_a_request(fake: bool) -> None:
    kept = []

    def step() -> None:
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1  # 4000
        view = b[:10]  # none
        kept.append(view.double())  # 80, lives on
        del a, b, view
        torch.zeros(5, dtype=torch.int8)  # 5, gone at once

    trace = memory.record(step, warmup=0, steps=1, fake=fake)
    assert trace.size.tolist() == [4000, 4000, 80, 5]
    assert trace.alloc.tolist() == [0, 1, 2, 5]
    assert trace.free.tolist() == [3, 4, 7, 6]
    assert labels(trace, 1) == ("forward 0", "forward: aten.add.Tensor")


def test_a_trace_is_of_one_device() -> None:
    kept = []

    def step() -> None:
        kept.append(torch.zeros(10, device="meta"))
        kept.append(torch.zeros(1000, device="cuda"))  # 4000 bytes
        kept.append(kept[-1].double())  # 8000
        kept[-2].to("cpu")  # 4000

    mode = memory.fake_mode()
    trace = memory.record(step, warmup=1, steps=1, fake=mode)
    assert trace.size.tolist() == [4000, 8000] * 2
    notes = trace.notes
    assert (notes["device"], notes["step_requests"]) == ("cuda:0", [2, 4])
    assert notes["left_out"] == {"cpu": {"requests": 2, "bytes": 8000}}
    kept.clear()
    host = memory.record(step, warmup=0, steps=1, fake=mode, device="cpu")
    assert host.size.tolist() == [4000]
    assert host.notes["left_out"] == {"cuda:0": {"requests": 2, "bytes": 12000}}
    named = memory.record(step, warmup=0, steps=1, fake=mode, device="cuda")
    assert named.notes["device"] == "cuda:0"
    with pytest.raises(ValueError, match="device is 'cuda:1': tensors were on cpu, cuda:0 only"):
        memory.record(step, warmup=0, steps=1, fake=mode, device="cuda:1")


def test_of_several_devices_one_must_be_named() -> None:
    def step() -> None:
        for device in ("cuda:0", "cuda:1", "cpu"):
            torch.zeros(3, device=device)

    with pytest.raises(ValueError, match="device is None: must be one of cpu, cuda:0, cuda:1"):
        memory.record(step, warmup=0, steps=1)
    with pytest.raises(ValueError, match="device is 'gpu': must be as cpu or cuda:0"):
        memory.record(step, device="gpu")
    trace = memory.record(step, warmup=0, steps=1, device="cuda:1")
    assert trace.notes["left_out"].keys() == {"cpu", "cuda:0"}


def test_what_is_made_on_meta_holds_nothing() -> None:
    model = nn.Linear(64, 64, device="meta")
    trace = memory.record(lambda: model(torch.ones(2, 64, device="meta")), warmup=0, fake=False)
    assert (len(trace), trace.notes["device"], trace.notes["left_out"]) == (0, None, {})


def test_phases_modules_and_steps_of_training() -> None:
    mode = memory.fake_mode()
    with mode:
        step = training_step()
    trace = memory.record(step, warmup=1, steps=2, fake=mode)
    assert trace.phases[:4] == ("forward 0", "before", "backward 0", "optimizer 0")
    assert trace.phases[-1] == "optimizer 2"
    found = {labels(trace, request) for request in range(len(trace))}
    assert ("forward 0", "0: aten.addmm.default") in found
    assert ("forward 1", "1: aten.gelu.default") in found
    assert ("backward 2", "AddmmBackward0: aten.mm.default") in found
    assert ("optimizer 0", "optimizer: aten.zeros_like.default") in found  # moments, made once
    assert ("optimizer 1", "optimizer: aten.zeros_like.default") not in found
    notes = trace.notes
    assert (notes["warmup"], len(notes["step_times"])) == (1, 3)
    first, second, third = notes["step_requests"]
    assert third == len(trace)
    repeated = [trace.size[first:second].tolist(), trace.size[second:third].tolist()]
    assert repeated[0] == repeated[1]  # after the warmup, all steps are alike
    weights = 4 * (64 * 256 + 256 + 256 * 8 + 8)
    last = trace.free == trace.free.max()
    assert trace.size[last].sum() >= 3 * weights  # with their moments, to the end


def test_fake_and_real_tensors_give_the_same_trace() -> None:
    mode = memory.fake_mode()
    with mode:
        step = training_step()
    fake = memory.record(step, fake=mode)
    real = memory.record(training_step(), fake=False)
    assert fake.digest == real.digest


def test_recompute_belongs_to_the_backward_pass_and_holds_less() -> None:
    from torch.utils.checkpoint import checkpoint

    def recorded(recompute: bool) -> memory.Trace:
        mode = memory.fake_mode()
        with mode:
            layers = [nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))] * 6

        def step() -> None:
            x = torch.ones(8192, 32, requires_grad=True)
            for layer in layers:
                x = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
            x.sum().backward()

        return memory.record(step, warmup=0, steps=1, fake=mode)

    kept, again = recorded(False), recorded(True)
    assert again.peak < kept.peak
    gelus = [
        again.phases[again.phase[request]]
        for request in range(len(again))
        if again.sites[again.site[request]].endswith("aten.gelu.default")
    ]
    assert sorted(gelus) == ["backward 0"] * 6 + ["forward 0"] * 6


def test_a_recorded_step_is_planned_to_its_maximum_load() -> None:
    mode = memory.fake_mode()
    with mode:
        step = training_step()
    trace = memory.record(step, fake=mode)
    plan = memory.plan(trace, time_limit=None, work_limit=3_000_000)
    plan.validate()
    assert plan.size == trace.peak == plan.lower_bound
    assert trace.alignment == 512
    assert (plan.offsets % 512 == 0).all()


def test_wrong_numbers_of_steps() -> None:
    with pytest.raises(ValueError, match="warmup is 0, steps is 0: must be at least 0 and"):
        memory.record(lambda: None, warmup=0, steps=0)


def test_nothing_is_left_behind() -> None:
    import gc

    collecting = gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        memory.record(lambda: 1 / 0)
    assert gc.isenabled() == collecting
    assert type(torch.ones(2)) is torch.Tensor
    assert not torch.nn.modules.module._global_forward_pre_hooks


SMALL = {
    "gpt2-345m": {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 100},
    "qwen-moe": {
        **{"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2},
        **{"num_key_value_heads": 2, "intermediate_size": 32, "moe_intermediate_size": 16},
        **{"shared_expert_intermediate_size": 32, "num_experts": 4, "vocab_size": 100},
    },
}


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("gpt2-345m", "transformer.h.0.attn"),
        ("qwen-moe", "mlp.experts"),
    ],
)
def test_known_models(name: str, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from warploom.memory import workloads

    full = workloads.WORKLOADS[name]
    small = replace(full, shape={**full.shape, **SMALL[name]}, batch=2, sequence=16)
    monkeypatch.setitem(workloads.WORKLOADS, name, small)
    trace = workloads.record(name)
    assert any(site in word for word in trace.sites)
    plan = memory.plan(trace, time_limit=None, work_limit=3_000_000)
    plan.validate()
    assert plan.size <= 1.005 * plan.lower_bound


def test_an_unknown_model() -> None:
    from warploom.memory import workloads

    with pytest.raises(ValueError, match="name is 'gpt5': must be one of gpt2-345m, "):
        workloads.record("gpt5")


def test_torch_is_not_needed_to_plan() -> None:
    import subprocess

    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from warploom import memory\n"
        "plan = memory.plan(memory.synthetic.training(3)); plan.validate(); print(plan.gap)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == 0
