"""Our Adam is torch's, and costs no import."""

from __future__ import annotations

import subprocess
import sys

import torch

from moediff.dictionaries.adam import Adam


def test_steps_are_those_of_torch_to_the_bit() -> None:
    start = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    found = []
    for kind in (torch.optim.Adam, Adam, torch.optim.Adam):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = kind([parameter], lr=0.01, betas=(0.9, 0.995), fused=True)
        for step in range(20):
            (parameter * (step + 1)).sin().sum().backward()
            optimizer.param_groups[0]["lr"] = 0.01 / (step + 1)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            assert parameter.grad is None
        found.append(
            [
                parameter.detach(),
                *(optimizer.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")),
            ]
        )
    for wanted, ours, again in zip(*found, strict=True):
        assert torch.equal(wanted, ours)
        assert torch.equal(wanted, again)  # torch's own is as it was


def test_a_step_imports_no_compiler() -> None:
    told = (
        "import sys, torch; from moediff.dictionaries.adam import Adam;"
        "p = torch.nn.Parameter(torch.ones(3));"
        "o = Adam([p], lr=0.1, fused=True); p.sum().backward(); o.step(); o.zero_grad();"
        "print('torch._dynamo' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
