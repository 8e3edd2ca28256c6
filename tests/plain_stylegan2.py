"""StyleGAN2 in plain tensor operations on NVIDIA's names, one picture at a time: what ours has to draw like."""

import math

import torch
import torch.nn.functional as F


def inserted(x):
    """Zeros between the cells of (c, h, w): (c, 2h, 2w)."""
    out = x.new_zeros(x.shape[0], 2 * x.shape[1], 2 * x.shape[2])
    out[:, ::2, ::2] = x
    return out


def filtered(x, before, after):
    """1-3-3-1 on both axes with gain 4, after zeros on each side."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8 * 2
    x = F.pad(x, (before, after, before, after))
    return F.conv2d(x[:, None], torch.outer(row, row)[None, None])[:, 0]


def convolved(x, weight, style, *, up, demodulate):
    """Modulated convolution of (c, h, w): the weight is scaled, then normalised for each output."""
    weight = weight * style[None, :, None, None]
    if demodulate:
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if not up:
        return F.conv2d(x[None], weight, padding=weight.shape[-1] // 2)[0]
    spread = F.pad(inserted(x), (2, 1, 2, 1))  # the last row and column are zeros already
    return filtered(F.conv2d(spread[None], weight.flip(2, 3))[0], 1, 1)


def styles(state, name, w):
    weight = state[f"{name}.affine.weight"]
    return weight @ w / math.sqrt(weight.shape[1]) + state[f"{name}.affine.bias"]


def clamped(x, clamp):
    return x if clamp is None else x.clamp(-clamp, clamp)


def mapped(state, z, *, rate=0.01, relu=False):
    """The mapping network: z → w."""
    x = z / (z.square().mean() + 1e-8).sqrt()
    for i in range(sum(key.startswith("mapping.fc") and key.endswith("bias") for key in state)):
        weight = state[f"mapping.fc{i}.weight"]
        x = weight @ x * (rate / math.sqrt(weight.shape[1])) + state[f"mapping.fc{i}.bias"] * rate
        x = (x.relu() if relu else torch.where(x > 0, x, 0.2 * x)) * math.sqrt(2)
    return x


def drawn(state, w, *, clamp=None, demodulate=True):
    """One picture (3 or 1, H, W) of w."""
    sides = sorted({int(key.split(".")[1][1:]) for key in state if key.startswith("synthesis.b")})
    x, picture = state["synthesis.b4.const"], None
    for side in sides:
        for part in ("conv0", "conv1"):
            name = f"synthesis.b{side}.{part}"
            if f"{name}.weight" not in state:
                continue
            up = part == "conv0"
            x = convolved(x, state[f"{name}.weight"], styles(state, name, w), up=up, demodulate=demodulate)
            if f"{name}.noise_strength" in state:
                x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
            x = x + state[f"{name}.bias"][:, None, None]
            x = clamped(torch.where(x > 0, x, 0.2 * x) * math.sqrt(2), clamp)
        name = f"synthesis.b{side}.torgb"
        style = styles(state, name, w) / math.sqrt(x.shape[0])
        part = convolved(x, state[f"{name}.weight"], style, up=False, demodulate=False)
        part = clamped(part + state[f"{name}.bias"][:, None, None], clamp)
        picture = part if picture is None else filtered(inserted(picture), 2, 1) + part
    return picture


def pictures(state, z, *, psi=1.0, rate=0.01, relu=False, **options):
    """Pictures (n, 3, H, W) of latents (n, z); grey ones on three channels."""
    average = state.get("mapping.w_avg", torch.tensor(0.0))
    ws = [average + psi * (mapped(state, one, rate=rate, relu=relu) - average) for one in z]
    return torch.stack([drawn(state, w, **options).expand(3, -1, -1) for w in ws])
