"""Writes pickles as NVIDIA's TensorFlow code does: networks whose variables are NumPy's arrays, and source code."""

import numpy
from persistence import pickled

SOURCE = "raise SystemExit('the source code in a file was run')\n"


class Network:
    """Stands for dnnlib.tflib.network.Network while a pickle is written: its state is what it is given."""

    def __init__(self, build, kwargs, variables, components=None, **more):
        self.state = {
            "version": 4,
            "name": build,
            "static_kwargs": dict(kwargs),
            "components": components or {},
            "build_module_src": SOURCE,
            "build_func_name": build,
            "variables": list(variables.items()) if isinstance(variables, dict) else variables,
            **more,
        }

    def __getstate__(self):
        return self.state


Network.__module__ = "dnnlib.tflib.network"


def variables(state):
    """TensorFlow's variables of a StyleGAN2, from a state dict by NVIDIA's PyTorch names: three dicts, as arrays."""
    numbers = {name: value.detach().float().numpy() for name, value in state.items()}
    outer = {"lod": numpy.float32(0), "dlatent_avg": numbers["mapping.w_avg"]}
    mapping, synthesis = {}, {}
    for name, value in numbers.items():
        path = name.split(".")
        if path[0] == "mapping" and path[1].startswith("fc"):
            mapping[f"Dense{path[1][2:]}/{path[2]}"] = value.T
        elif name == "synthesis.b4.const":
            synthesis["4x4/Const/const"] = value[None]
        elif path[0] == "synthesis" and path[-1] not in ("resample_filter", "const"):
            side = int(path[1][1:])
            scope = {"conv0": "Conv0_up", "conv1": "Conv1" if side > 4 else "Conv", "torgb": "ToRGB"}[path[2]]
            place = f"{side}x{side}/{scope}"
            if path[-1] == "noise_const":
                number = 2 * side.bit_length() - 6 - (path[2] == "conv0") if side > 4 else 0
                synthesis[f"noise{number}"] = value[None, None]
            elif path[3] == "affine":
                synthesis[f"{place}/mod_{path[4]}"] = value.T if path[4] == "weight" else value - 1
            elif path[3] == "weight":
                turned = numpy.moveaxis(value, (0, 1), (3, 2))
                synthesis[f"{place}/weight"] = turned[::-1, ::-1] if path[2] == "conv0" else turned
            else:
                synthesis[f"{place}/{path[3]}"] = value[()]  # a session returns numbers, not arrays without axes
    for part in (mapping, synthesis):
        part.update({name: numpy.ascontiguousarray(value) for name, value in part.items() if value.ndim})
    return outer, mapping, synthesis


def network(state, **kwargs):
    """A StyleGAN2 generator of TensorFlow."""
    outer, mapping, synthesis = variables(state)
    kwargs = {"num_channels": 3, "resolution": 16, "label_size": 0, **kwargs}
    components = {
        "synthesis": Network("G_synthesis_stylegan2", kwargs, synthesis),
        "mapping": Network("G_mapping", {**kwargs, "dlatent_broadcast": 6}, mapping),
    }
    return Network("G_main", {"truncation_psi": 0.5, **kwargs}, outer, components)


def snapshot(generator):
    """What a training run writes."""
    other = Network("D_stylegan2", {"resolution": 16}, {"4x4/Conv/weight": numpy.zeros((3, 3, 1, 1), "f4")})
    return generator, other, generator


def dumps(data, protocol=4):
    """The pickle."""
    return pickled(data, protocol, (Network,))
