"""StyleGAN3 in plain tensor operations, by its formulas: sizes, filters, random weights, pictures of a state dict."""

import math
import re

import numpy as np
import torch
import torch.nn.functional as F

MARGIN, FIRST_CUTOFF, FIRST_STOPBAND, LAST_STOPBAND = 10, 2.0, 2**2.1, 2**0.3


def table(resolution, *, count=14, critical=2, base=32768, most=512, radial=False):
    """A row for each convolution, with its sizes, rates (per picture) and cut-off frequencies."""
    rates, sizes, cutoffs, widths, channels = [], [], [], [], []
    for i in range(count + 1):
        share = min(i / (count - critical), 1)
        cutoff = FIRST_CUTOFF * (resolution / 2 / FIRST_CUTOFF) ** share
        stopband = FIRST_STOPBAND * (resolution / 2 * LAST_STOPBAND / FIRST_STOPBAND) ** share
        rate = int(2 ** np.ceil(np.log2(min(stopband * 2, resolution))))
        rates.append(rate)
        cutoffs.append(cutoff)
        widths.append(max(stopband, rate / 2) - cutoff)
        sizes.append(resolution if i >= count - 1 else rate + 2 * MARGIN)
        channels.append(3 if i == count else int(np.rint(min(base / 2 / cutoff, most))))
    rows = []
    for i in range(count + 1):
        last, before = i == count, max(i - 1, 0)
        high = max(rates[before], rates[i]) * (1 if last else 2)
        up, down = high // rates[before], high // rates[i]
        rows.append(
            {
                "name": f"L{i}_{sizes[i]}_{channels[i]}",
                **{"in": channels[before], "out": channels[i], "kernel": 1 if last or radial else 3},
                **{"in_size": sizes[before], "out_size": sizes[i], "in_rate": rates[before], "out_rate": rates[i]},
                **{"up": up, "down": down, "up_taps": 1 if last else 6 * up, "down_taps": 1 if last else 6 * down},
                **{"in_cutoff": cutoffs[before], "in_width": widths[before], "high": high},
                **{"out_cutoff": cutoffs[i], "out_width": widths[i], "radial": radial and i < count - critical},
            }
        )
    return rows


# --- filters ---


def kaiser(taps, width, rate):
    """The Kaiser window for a transition of 2 · width: Kaiser's own formulas for attenuation and beta."""
    attenuation = 2.285 * (taps - 1) * math.pi * (2 * width / (rate / 2)) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21) if attenuation > 21 else 0.0
    return np.kaiser(taps, beta)


def separable(taps, cutoff, width, rate):
    """A windowed sine cardinal."""
    at = (np.arange(taps) - (taps - 1) / 2) / rate
    made = np.sinc(2 * cutoff * at) * kaiser(taps, width, rate)
    return torch.from_numpy(made / made.sum()).float()


def radial(taps, cutoff, width, rate):
    """A windowed jinc."""
    at = (np.arange(taps) - (taps - 1) / 2) / rate
    r = torch.from_numpy(np.hypot(at[:, None], at[None]))
    window = kaiser(taps, width, rate)
    made = torch.special.bessel_j1(2 * cutoff * math.pi * r).numpy() / (math.pi * r.numpy()) * np.outer(window, window)
    return torch.from_numpy(made / made.sum()).float()


# --- weights ---


def plain_state(resolution=16, *, z_dim=6, w_dim=5, depth=2, seed=0, **sizes):
    """The state dict of a generator with random weights."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    state = {"mapping.w_avg": normal(w_dim) / 4}
    for i in range(depth):
        state[f"mapping.fc{i}.weight"] = normal(w_dim, w_dim if i else z_dim) * 100
        state[f"mapping.fc{i}.bias"] = normal(w_dim) * 10
    rows = table(resolution, **sizes)
    channels = rows[0]["out"]
    angle, radius = 2 * math.pi * torch.rand(channels, generator=draw), torch.rand(channels, generator=draw).sqrt()
    state |= {
        "synthesis.input.weight": normal(channels, channels),
        "synthesis.input.affine.weight": normal(4, w_dim) / 3,
        "synthesis.input.affine.bias": torch.tensor([1.0, 0.3, 0.1, -0.2]),
        "synthesis.input.transform": torch.tensor([[0.9, 0.2, 0.1], [-0.2, 1.1, 0.3], [0.0, 0.0, 1.0]]),
        "synthesis.input.freqs": FIRST_CUTOFF * radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1),
        "synthesis.input.phases": torch.rand(channels, generator=draw) - 0.5,
    }
    for row in rows:
        part = {
            "weight": normal(row["out"], row["in"], row["kernel"], row["kernel"]),
            "bias": normal(row["out"]) / 2,
            "affine.weight": normal(row["in"], w_dim) / 2,
            "affine.bias": torch.ones(row["in"]),
            "magnitude_ema": 0.5 + torch.rand([], generator=draw),
        }
        if row is not rows[-1]:
            part["up_filter"] = separable(row["up_taps"], row["in_cutoff"], row["in_width"], row["high"])
            design = radial if row["radial"] else separable
            part["down_filter"] = design(row["down_taps"], row["out_cutoff"], row["out_width"], row["high"])
        state |= {f"synthesis.{row['name']}.{key}": value for key, value in part.items()}
    return state


# --- pictures ---


def draw(state, latents, *, truncation=1.0, ws=None):
    """Pictures (n, 3, side, side) of latents (n, z_dim), or of ws (n, convolutions + 1, w_dim), in float64."""
    state = {key: value.double() for key, value in state.items()}
    names = {re.match(r"synthesis\.(L\d+_\d+_\d+)\.", key)[1] for key in state if key.startswith("synthesis.L")}
    names = sorted(names, key=lambda name: int(name[1:].split("_")[0]))
    sizes = [int(name.split("_")[1]) for name in names]
    rates = [size - 2 * MARGIN for size in sizes[:-2]] + sizes[-2:]
    if ws is None:
        ws = mapped(state, latents.double(), truncation)[:, None].repeat(1, len(names) + 1, 1)
    ws = ws.double()
    x = waves(state, ws[:, 0], sizes[0], rates[0])
    for i, name in enumerate(names):
        part = {key.split(".", 2)[2]: value for key, value in state.items() if key.startswith(f"synthesis.{name}.")}
        x = convolved(part, x, ws[:, i + 1], last=name == names[-1])
        if name != names[-1]:
            x = filtered(part, x, rates[max(i - 1, 0)], rates[i], sizes[i])
    return 0.25 * x.clamp(-256, 256)


def mapped(state, z, truncation):
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", key)) for key in state)):
        weight, bias = state[f"mapping.fc{i}.weight"] * 0.01, state[f"mapping.fc{i}.bias"] * 0.01
        x = F.leaky_relu(x @ weight.T / math.sqrt(x.shape[1]) + bias, 0.2) * math.sqrt(2)
    return state["mapping.w_avg"] * (1 - truncation) + x * truncation


def affine(part, w, name="affine"):
    return w @ part[f"{name}.weight"].T / math.sqrt(w.shape[1]) + part[f"{name}.bias"]


def waves(state, w, size, rate):
    """Each wave of each picture on its own."""
    part = {key.removeprefix("synthesis.input."): value for key, value in state.items()}
    maps = torch.zeros(len(w), len(part["phases"]), size, size).double()
    y, x = torch.meshgrid(*[(torch.arange(size).double() + 0.5 - size / 2) / rate] * 2, indexing="ij")
    for n, (c, s, right, below) in enumerate(affine(part, w).tolist()):
        norm = math.hypot(c, s)
        turn = torch.tensor([[c / norm, -s / norm, 0], [s / norm, c / norm, 0], [0, 0, 1]]).double()
        move = torch.tensor([[1, 0, -right / norm], [0, 1, -below / norm], [0, 0, 1]]).double()
        transform = turn @ move @ part["transform"]
        for i, (freq, phase) in enumerate(zip(part["freqs"], part["phases"], strict=True)):
            phase = phase + freq @ transform[:2, 2]
            fx, fy = (freq @ transform[:2, :2]).tolist()
            amplitude = 1 - (math.hypot(fx, fy) - FIRST_CUTOFF) / (rate / 2 - FIRST_CUTOFF)
            maps[n, i] = torch.sin(2 * math.pi * (fx * x + fy * y + phase)) * min(max(amplitude, 0), 1)
    return torch.einsum("oi,nihw->nohw", part["weight"] / math.sqrt(maps.shape[1]), maps)


def convolved(part, x, w, *, last):
    """The modulated convolution with its bias, its weight made for each picture."""
    weight, styles = part["weight"], affine(part, w)
    if last:
        styles = styles / math.sqrt(weight.shape[1])
    else:
        weight = weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        styles = styles / styles.square().mean().sqrt()
    pictures = []
    for one, style in zip(x, styles, strict=True):
        own = weight * style[None, :, None, None]
        if not last:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        own = own / part["magnitude_ema"].sqrt()
        pictures.append(F.conv2d(one[None], own, padding=weight.shape[-1] - 1)[0] + part["bias"][:, None, None])
    return torch.stack(pictures)


def resampled(x, taps, *, up, down, padding):
    """Zeros between the cells, zeros around them (or fewer cells), a filter on both axes, and one cell in `down`."""
    n, c, side, _ = x.shape
    full = torch.zeros(n * c, 1, side * up, side * up).to(x)
    full[:, :, ::up, ::up] = x.reshape(n * c, 1, side, side)
    full = F.pad(full, (*padding, *padding))
    for each in [taps] if taps.ndim == 2 else [taps[:, None], taps[None]]:
        full = F.conv2d(full, each.flip(0, 1)[None, None])
    return full[:, :, ::down, ::down].reshape(n, c, (full.shape[-1] - 1) // down + 1, -1)


def filtered(part, x, in_rate, out_rate, out_size):
    """Upsampling, leaky ReLU, downsampling."""
    up_filter, down_filter = part["up_filter"], part["down_filter"]
    high = 2 * max(in_rate, out_rate)
    up, down = high // in_rate, high // out_rate
    padding = (out_size - 1) * down + 1 - x.shape[-1] * up + len(up_filter) + len(down_filter) - 2
    lower = (padding + up) // 2
    x = resampled(x, up_filter * up, up=up, down=1, padding=(lower, padding - lower))
    x = (F.leaky_relu(x, 0.2) * math.sqrt(2)).clamp(-256, 256)
    return resampled(x, down_filter, up=1, down=down, padding=(0, 0))
