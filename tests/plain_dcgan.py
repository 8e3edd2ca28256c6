"""The DCGAN of PyTorch's tutorial in plain torch, with random weights: what ours has to draw like."""

import torch
from torch import nn


def plain_dcgan(widths=(12, 10, 8), *, z_dim=6, colours=3, bias=False, seed=0):
    """Generator of 4 · 2^len(widths) px; its batch norms have seen some pictures, as after a training."""
    torch.manual_seed(seed)
    modules, previous = [], z_dim
    for i, width in enumerate(widths):
        stride, padding = (2, 1) if i else (1, 0)
        conv = nn.ConvTranspose2d(previous, width, 4, stride, padding, bias=bias)
        modules += [conv, nn.BatchNorm2d(width), nn.ReLU(True)]
        previous = width
    modules += [nn.ConvTranspose2d(previous, colours, 4, 2, 1, bias=bias), nn.Tanh()]
    made = nn.Module()
    made.main = nn.Sequential(*modules)
    with torch.no_grad():
        for module in modules:
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        for _ in range(20):
            made.main(torch.randn(16, z_dim, 1, 1))
    return made.eval()


def plain_discriminator(widths=(8, 10, 12)):
    """Its opponent."""
    modules, previous = [], 3
    for i, width in enumerate(widths):
        norm = [nn.BatchNorm2d(width)] if i else []
        modules += [nn.Conv2d(previous, width, 4, 2, 1, bias=False), *norm, nn.LeakyReLU(0.2)]
        previous = width
    made = nn.Module()
    made.main = nn.Sequential(*modules, nn.Conv2d(previous, 1, 4, 1, 0, bias=False), nn.Sigmoid())
    return made
