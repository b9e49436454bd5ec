#!/usr/bin/env python3
"""A private step of Opacus, without noise, against a plain step of PyTorch, on one thread.

The same two networks and batches as benches/private_step.rs. Needs torch and opacus; without them it says so
and ends well. Usage: python3 crates/dp-burn/benches/opacus.py
"""

import sys
import time

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

ROUNDS = 25
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


def per_sample(make, x, y, wrapper):
    net = wrapper(make())
    optimizer = DPOptimizer(
        torch.optim.SGD(net.parameters(), RATE),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=len(x),
    )

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def ghost(make, x, y):
    net = GradSampleModuleFastGradientClipping(make(), max_grad_norm=1.0, use_ghost_clipping=True)
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(net.parameters(), RATE),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=len(x),
    )
    criterion = DPLossFastGradientClipping(net, optimizer, nn.CrossEntropyLoss())

    def step():
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()

    return step


ENGINES = {
    "plain": plain,
    "hooks": lambda make, x, y: per_sample(make, x, y, GradSampleModule),
    "ew": lambda make, x, y: per_sample(make, x, y, GradSampleModuleExpandedWeights),
    "ghost": ghost,
}


def measure(name, make, x, y):
    steps = {}
    for engine, build in ENGINES.items():
        try:
            steps[engine] = build(make, x, y)
            steps[engine]()
        except Exception as error:  # An engine that this version does not have should not hide the others.
            steps.pop(engine, None)
            print(f"{name}: {engine}: skipped: {type(error).__name__}: {error}")
    best = {engine: float("inf") for engine in steps}
    for _ in range(ROUNDS):
        for engine, step in steps.items():
            start = time.perf_counter()
            step()
            best[engine] = min(best[engine], time.perf_counter() - start)
    for engine, seconds in best.items():
        ratio = seconds / best.get("plain", float("nan"))
        print(f"{name}: {engine}: {seconds * 1e3:.2f} ms, ratio {ratio:.2f}")


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, opacus {opacus.__version__}, one thread, no noise")
    images = torch.rand(32, 3, 64, 64) * 2 - 1
    measure("CNN 3-32-64-128, 64x64, batch 32", Cnn, images, torch.arange(32) % 10)
    tables = torch.rand(64, 256) * 2 - 1
    measure("MLP 256-512-512-10, batch 64", mlp, tables, torch.arange(64) % 10)


if __name__ == "__main__":
    main()
