#!/usr/bin/env python3
"""A private step of Opacus against a plain step of PyTorch, on one thread.

Noise: none, one draw of torch's generator for each value, and `secure_mode` (four draws, summed), which is what our
levels `fast` and `hardened` compare with.

The same two networks and batches as benches/private_step.rs. Needs torch and opacus; without them it says so
and ends well. Usage: python3 crates/dp-burn/benches/opacus_step.py
"""

import sys
import time
import warnings

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError as error:
    print(f"skipped: {error}; pip install torch opacus")
    sys.exit(0)
try:
    import opacus
    from opacus.grad_sample import (
        GradSampleModule,
        GradSampleModuleExpandedWeights,
        GradSampleModuleFastGradientClipping,
    )
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
except ImportError as error:
    print(f"skipped: {error}; pip install opacus")
    sys.exit(0)

ROUNDS = 20
RATE = 0.01


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, 2, 1)
        self.second = nn.Conv2d(32, 64, 3, 2, 1)
        self.third = nn.Conv2d(64, 128, 3, 2, 1)
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.relu(self.second(x))
        x = F.relu(self.third(x))
        return self.head(x.mean(dim=(2, 3)))


def mlp():
    return nn.Sequential(
        nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def plain(make, x, y):
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), RATE)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def per_sample(make, x, y, noise, wrapper):
    net = wrapper(make())
    optimizer = DPOptimizer(
        torch.optim.SGD(net.parameters(), RATE), expected_batch_size=len(x), **NOISES[noise]
    )

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def ghost(make, x, y, noise):
    net = GradSampleModuleFastGradientClipping(make(), max_grad_norm=1.0, use_ghost_clipping=True)
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(net.parameters(), RATE), expected_batch_size=len(x), **NOISES[noise]
    )
    criterion = DPLossFastGradientClipping(net, optimizer, nn.CrossEntropyLoss())

    def step():
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()

    return step


NOISES = {
    "none": {"noise_multiplier": 0.0, "max_grad_norm": 1.0},
    "usual": {"noise_multiplier": 1.0, "max_grad_norm": 1.0},
    "secure": {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "secure_mode": True},
}

ENGINES = {
    "hooks": lambda make, x, y, noise: per_sample(make, x, y, noise, GradSampleModule),
    "ew": lambda make, x, y, noise: per_sample(make, x, y, noise, GradSampleModuleExpandedWeights),
    "ghost": ghost,
}


def measure(name, make, x, y):
    steps = {"plain": plain(make, x, y)}
    for engine, build in ENGINES.items():
        for noise in NOISES:
            try:
                step = build(make, x, y, noise)
                step()
            except Exception as error:  # An engine that this version does not have should not hide the others.
                print(f"{name}: {engine}, noise {noise}: skipped: {type(error).__name__}: {error}")
            else:
                steps[f"{engine}, noise {noise}"] = step
    steps["plain"]()
    best = {engine: [float("inf")] * 2 for engine in steps}
    for _ in range(ROUNDS):
        for engine, step in steps.items():
            start = time.perf_counter(), time.process_time()
            step()
            now = time.perf_counter(), time.process_time()
            best[engine] = [min(b, n - s) for b, n, s in zip(best[engine], now, start)]
    for engine, times in best.items():
        elapsed, processor = (
            f"{seconds * 1e3:.2f} ms ({seconds / plain:.2f})"
            for seconds, plain in zip(times, best["plain"])
        )
        print(f"{name}: {engine}: elapsed {elapsed}, processor {processor}")


def main():
    torch.set_num_threads(1)
    # The first layers' inputs need no gradient: said once for every hook.
    warnings.filterwarnings("ignore", message="Full backward hook")
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, opacus {opacus.__version__}, one thread")
    images = torch.rand(32, 3, 64, 64) * 2 - 1
    measure("CNN 3-32-64-128, 64x64, batch 32", Cnn, images, torch.arange(32) % 10)
    tables = torch.rand(64, 256) * 2 - 1
    measure("MLP 256-512-512-10, batch 64", mlp, tables, torch.arange(64) % 10)


if __name__ == "__main__":
    main()
