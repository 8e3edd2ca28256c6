"""Writes pickles as NVIDIA's StyleGAN2 and StyleGAN3 do: objects that bring their own classes' source code along."""

import pickle
import sys
from types import ModuleType

import numpy
import torch
from torch import nn

SOURCE = "raise SystemExit('the source code in a file was run')\n"
BUFFERS = ("w_avg", "noise_const", "resample_filter", "magnitude_ema", "up_filter", "down_filter")
BUFFERS += ("freqs", "phases", "transform")
CLASSES = {
    "": "Generator",
    "mapping": "MappingNetwork",
    "synthesis": "SynthesisNetwork",
    "torgb": "ToRGBLayer",
    "conv0": "SynthesisLayer",
    "conv1": "SynthesisLayer",
    "input": "SynthesisInput",
}


class EasyDict(dict):
    """A dict whose items are attributes, as dnnlib has it."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


EasyDict.__module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta):
    raise AssertionError("a file called what it names")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent(nn.Module):
    """A module that pickles itself by its class's name and source."""

    class_name = "Module"

    def __reduce__(self):
        meta = EasyDict(type="class", version=6, module_src=SOURCE, class_name=self.class_name, state=self.__dict__)
        return _reconstruct_persistent_obj, (meta,), None


def module(name="Module", **fields):
    """An empty module of a class, with fields of its own."""
    made = Persistent()
    made.class_name = name
    made.__dict__.update(fields)
    return made


def dense(inputs, *, mapping, rate=0.01):
    """What NVIDIA's fully connected layers say of themselves."""
    rate = rate if mapping else 1.0
    activation = "lrelu" if mapping else "linear"
    return {"activation": activation, "weight_gain": rate / numpy.sqrt(inputs), "bias_gain": rate}


def put(layer, key, value):
    """Give a layer its tensor of this name; a fully connected layer also says how it is drawn."""
    last = key.split(".")[-1]
    if layer.class_name == "FullyConnectedLayer" and last == "weight":
        layer.__dict__.update(dense(value.shape[-1], mapping=key.startswith("mapping.")))
    if last in BUFFERS:
        layer.register_buffer(last, value)
    else:
        layer.register_parameter(last, nn.Parameter(value, requires_grad=value.is_floating_point()))


def network(state, **fields):
    """A generator that holds a state dict, with what NVIDIA's layers say of themselves."""
    clamp = fields.pop("conv_clamp", None)
    root = module("Generator", c_dim=0, img_resolution=16, _init_args=(), _init_kwargs=EasyDict(conv_clamp=clamp))
    root.__dict__.update(fields)
    for key, value in state.items():
        *path, _ = key.split(".")
        inner, said = root, {}
        for part in path:
            name = CLASSES.get(part, "SynthesisBlock" if part.startswith("b") else "FullyConnectedLayer")
            if name in ("SynthesisLayer", "ToRGBLayer", "SynthesisBlock"):
                said = {"conv_clamp": clamp, "architecture": "skip", "activation": "lrelu", "use_noise": True}
                said |= {"act_gain": numpy.sqrt(2)} if name == "SynthesisLayer" else {}  # a number of NumPy
            if part not in inner._modules:
                inner._modules[part] = module(name, **({} if name == "FullyConnectedLayer" else said))
            inner = inner._modules[part]
        put(inner, key, value)
    return root


def filtered_network(state, **fields):
    """A StyleGAN3 generator that holds a state dict, with what its layers say of themselves."""
    root = network({}, **fields)
    for key, value in state.items():
        *path, last = key.split(".")
        inner = root
        for part in path:
            name = CLASSES.get(part, "SynthesisLayer" if part.startswith("L") else "FullyConnectedLayer")
            if part not in inner._modules:
                inner._modules[part] = module(name, **filtering(name, part))
            inner = inner._modules[part]
        put(inner, key, value)
        if last.endswith("_filter"):
            way = last.removesuffix("_filter")
            inner.__dict__ |= {f"{way}_taps": len(value), f"{way}_factor": len(value) // 6}
    return root


def filtering(name, part):
    """What StyleGAN3's modules say of themselves, beside their filters; the last layer has none."""
    if name == "MappingNetwork":
        return {"embed": None, "num_ws": 16}
    if name == "SynthesisNetwork":
        return {"margin_size": 10, "output_scale": 0.25, "num_critical": 2}
    if name == "SynthesisInput":
        size = numpy.broadcast_to(numpy.asarray(36), [2])
        return {"bandwidth": numpy.float64(2), "sampling_rate": numpy.float64(16), "size": size}
    if name == "SynthesisLayer":
        none = {"_buffers": {"up_filter": None, "down_filter": None}} if part.endswith("_3") else {}
        taps = {"up_taps": 1, "down_taps": 1, "up_factor": 1, "down_factor": 1}
        return {"conv_clamp": 256, "magnitude_ema_beta": 0.999, "padding": [9, 8, 9, 8], **taps, **none}
    return {}


def snapshot(generator):
    """What a training run writes: three networks and how they were trained."""
    other = network({"b4.conv0.weight": torch.zeros(2, 2), "b4.resample_filter": torch.ones(4, 4)})
    other.class_name = "Discriminator"
    augment = module("AugmentPipe", xflip=1.0)
    augment.register_buffer("p", torch.ones([]))
    return {
        "G": generator,
        "D": other,
        "G_ema": generator,
        "training_set_kwargs": EasyDict(path="pictures.zip", max_size=numpy.int64(100), labels={"none", "some"}),
        "augment_pipe": augment,
    }


class Plain(nn.Module):
    """A module whose class is only named, as Projected GAN's code has it."""


def plain(generator, code, **fields):
    """The modules of a generator in one whose class is a plain one of this module of Python."""
    made = type("Generator", (Plain,), {"__module__": code})()
    for name, value in generator.named_children():
        made.add_module(name, value)
    for each in made.modules():
        if type(each).__module__.startswith("test") or type(each).__module__.startswith("plain"):
            each.__class__ = nn.Module if type(each) is not nn.Sequential else nn.Sequential
    made.__dict__.update({"c_dim": 0, "z_dim": 6, **fields})
    return made


def dumps(data, protocol=4, named=()):
    """The pickle of NVIDIA's code; `named`: objects whose classes are named in it as well."""
    return pickled(data, protocol, (_reconstruct_persistent_obj, EasyDict, *map(type, named)))


def pickled(data, protocol, known):
    """The pickle; the modules of these classes and functions exist only while it is written."""
    fakes = {}
    for each in known:
        parts = each.__module__.split(".")
        for name in (".".join(parts[:i]) for i in range(1, len(parts) + 1)):
            fakes.setdefault(name, ModuleType(name))
        setattr(fakes[each.__module__], each.__name__, each)
    assert not fakes.keys() & sys.modules.keys()
    sys.modules.update(fakes)
    try:
        return pickle.dumps(data, protocol)
    finally:
        for name in fakes:
            del sys.modules[name]
