"""Malicious checkpoint files, each made when it is needed, and a watch on what reading one does."""

import functools
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from contextlib import contextmanager

import torch

MARKED = b"\x80\x02}"  # a pickle begins, with a dict
STORAGE = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
PERSISTENT = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
OLDER = [b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02M\xe9\x03.", b"\x80\x02}X\r\0\0\0little_endian\x88s."]
FOUR = struct.pack("<q", 4) + bytes(16)  # a storage of four zeros, as the older kind has it

# --- a watch ---

FORBIDDEN = ("subprocess", "os.", "socket.", "shutil.", "tempfile.", "ctypes.", "pickle.", "urllib.", "webbrowser.")
HARMLESS = ("os.listdir", "os.scandir", "os.stat")  # of an import
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
watched = []


def _hook(event, arguments):
    if not watched:
        return
    data, seen = watched[-1]
    if event == "import":
        if arguments[0].encode() in data:
            seen.append(f"import {arguments[0]}")
    elif event == "open":
        if arguments[2] & WRITING or str(arguments[1])[:1] in "wax":
            seen.append(f"open {arguments[0]}")
    elif event == "exec":
        if not os.path.isabs(arguments[0].co_filename):  # a library's own file is one that it imports late
            seen.append(f"exec {arguments[0].co_filename}")
    elif event in ("compile", "code.__new__"):
        seen.append(f"{event} {arguments[1]}")
    elif event.startswith(FORBIDDEN) and event not in HARMLESS:
        seen.append(f"{event} {arguments}")


@functools.cache
def _install():
    sys.addaudithook(_hook)  # there is no way to take it away again


@contextmanager
def watching(data):
    """Raise AssertionError if anything that `data` names is imported, or anything is run, sent or written."""
    _install()
    seen = []
    watched.append((data, seen))
    try:
        yield
    finally:
        watched.pop()
    assert not seen, seen


def memory(name):
    """A line of the process's status, in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(name))


@contextmanager
def bounded(size, seconds=10.0):
    """Raise AssertionError for more processor time, or more memory than a few times a file of so many bytes."""
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")  # the peak is counted from here
    except OSError:
        pass
    before, peak, start = memory("VmRSS"), memory("VmHWM"), time.process_time()
    yield
    assert time.process_time() - start < seconds, f"it took {time.process_time() - start:.1f} s"
    after = memory("VmHWM")
    grown = 0 if after == peak else after - before
    assert grown < 4 * size + (200 << 20), f"it took {grown >> 20} MB for {size >> 20}"


# --- parts of files ---


def zipped(data, records=(), *, folder="archive", method=zipfile.ZIP_STORED):
    """An archive as torch.save writes them, with a pickle and other records."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n", **dict(records)}.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{name}"), content, method)
    return out.getvalue()


def saved(data, **options):
    """What torch.save writes."""
    out = io.BytesIO()
    torch.save(data, out, **options)
    return out.getvalue()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def persistent(count, key="0", kind=STORAGE, more=b""):
    """The opcodes that name a storage of an archive."""
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + more + b"tQ"


def tensor(shape, stride, offset=0, count=4, more=b""):
    """The opcodes that describe a tensor of such a storage."""
    place = persistent(count) + number(offset) + number(shape) + number(stride)
    return REBUILD + b"(" + place + b"\x89" + number({}) + more + b"tR"


def holding(value):
    """A pickle {"weight": value}."""
    return MARKED + text("weight") + value + b"s."


def laid(value, numbers=b"\0" * 16):
    """An archive whose pickle holds {"weight": value}, and one storage."""
    return zipped(holding(value), {"data/0": numbers})


def older(value, keys=("0",), numbers=FOUR):
    """The same in torch.save's older kind."""
    value = value.replace(b"tQ", b"NtQ")  # its storages may be views of others; None is none
    return b"".join(OLDER) + holding(value) + pickle.dumps(list(keys), 2) + numbers


def embedded(payload):
    """The opcodes that load a file within the file."""
    return b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(payload)) + payload + b"\x85R"


def storage_alone(value=None, numbers=FOUR):
    """Such a file: one storage in torch.save's older kind."""
    value = (value or persistent(4)).replace(b"tQ", b"NtQ")
    return b"".join(OLDER) + b"\x80\x02" + value + b"." + pickle.dumps(["0"], 2) + numbers


def safetensors(header, data=b""):
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header)) + header + data


def array(shape=(4,), data=bytes(16), code="f4", order="<", data_opcodes=None, fortran=b"\x89"):
    """The opcodes of an array of NumPy."""
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number((0,)) + b"C\1b\x87R"
    kind = b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R(K\3" + text(order) + b"NNN" + number(-1) * 2 + b"K\0tb"
    content = b"B" + struct.pack("<I", len(data)) + data if data_opcodes is None else data_opcodes
    return made + b"(K\1" + number(shape) + kind + fortran + content + b"tb"


def network(variables=b"", components=b"}", **more):
    """The opcodes of a network of TensorFlow; `variables` are those of a list's items."""
    stated = {"version": 4, "name": "G", "static_kwargs": {}, "build_module_src": "", "build_func_name": "G_main"}
    fields = b"".join(text(name) + number(value) for name, value in {**stated, **more}.items())
    fields += text("components") + components + text("variables") + b"](" + variables + b"e"
    return b"cdnnlib.tflib.network\nNetwork\n)\x81}(" + fields + b"ub"


def variable(name, value):
    return text(name) + value + b"\x86"


class Calls:
    """An object that is pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


# --- the files ---


def _calls():
    """Pickles that ask to run something, in each way that pickles can."""
    ways = {
        "system": Calls(os.system, "touch ran"),
        "eval": Calls(eval, "open('ran', 'w')"),
        "exec": Calls(exec, "import this"),
        "popen": Calls(subprocess.Popen, ["touch", "ran"]),
        "open": Calls(open, "ran", "w"),
        "getattr": Calls(getattr, "text", "upper"),
        "import": Calls(__import__, "antigravity"),
        "buffer": Calls(bytearray, 10**11),
        "zeros": Calls(torch.zeros, 10**11),
        "load": Calls(torch.load, "other.pt"),
    }
    for name, call in ways.items():
        for protocol in (2, 4):
            data = pickle.dumps({"G_ema": call, "state_dict": call}, protocol)
            yield f"{name} {protocol}", data
            yield f"{name} {protocol} zipped", zipped(data)
            yield f"{name} {protocol} older", b"".join(OLDER) + data + pickle.dumps([], 2)
        yield f"{name} in a state", holding(b"cargparse\nNamespace\n)R" + pickle.dumps({"x": call}, 2)[2:-1] + b"b")
    raw = {
        "an unknown module": b"\x80\x02cstranger\nrun\n)R.",
        "a name alone": b"\x80\x02cstranger\nrun\n.",
        "a name with dots": b"\x80\x04" + text("torch") + text("storage._load_from_bytes") + b"\x93.",
        "a name with more dots": b"\x80\x04" + text("collections") + text("OrderedDict.fromkeys") + b"\x93.",
        "a name that is no text": b"\x80\x04K\1K\2\x93.",
        "inst": b"\x80\x02(" + text("touch ran") + b"ios\nsystem\n.",
        "obj": b"\x80\x02(cos\nsystem\n" + text("touch ran") + b"o.",
        "ext1": b"\x80\x02\x82\1.",
        "ext4": b"\x80\x02\x84\1\0\0\0.",
        "newobj_ex": b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
        "newobj": b"\x80\x02ctorch\nTensor\n" + number((10**10,)) + b"\x81.",
        "a number called": b"\x80\x02K\1)R.",
        "a storage type called": b"\x80\x02ctorch\nFloatStorage\n" + number((10**10,)) + b"R.",
        "a class without its call": b"\x80\x02ccollections\nOrderedDict\n.",
        "codecs": b"\x80\x02c_codecs\nencode\n" + number(("x", "latin1")) + b"R.",
        "persistent id as text": b"\x80\x02Pstorage\n.",
        "next buffer": b"\x80\x05\x97.",
        "tensorflow's older code": b"\x80\x02ctfutil\nNetwork\n)\x81.",
        "source": b"\x80\x02" + PERSISTENT + b"}" + number("module_src") + b"s\x85R.",
    }
    for name, data in raw.items():
        yield name, data
        yield f"{name} zipped", zipped(data)


def _bombs():
    """Pickles that grow, nest, or end early."""
    deep, clamp = 100_000, text("conv_clamp")
    shared = b"(lq\0" + b"".join(b"h\0h\0\x86q\0" for _ in range(64))  # a tuple of itself twice, and so on
    nested = b"K\1" + b"".join(b"q\0h\0\x86" for _ in range(60))
    payload, small = storage_alone(), storage_alone(persistent(0), struct.pack("<q", 0))
    large = storage_alone(persistent(1 << 18), struct.pack("<q", 1 << 18) + bytes(1 << 20))
    slow = b"".join([*OLDER[:2], OLDER[2][:-1], b"N0" * 100_000, b".", small[len(b"".join(OLDER)) :]])
    load = b"ctorch.storage\n_load_from_bytes\nq\1"
    pairs = b"](" + b"".join([b"X\1\0\0\0a", b"N\x86q\1", b"h\1" * 100_000]) + b"eq\2"
    called = b"ccollections\nOrderedDict\nq\3" + b"h\3h\2\x85R0" * 10_000
    yield "one long list, made a dict again and again", b"\x80\x02" + pairs + called + b"N."
    pair = b"](" + text("a" * (1 << 22)) + b"e\x85R."
    yield "one long text, taken for a pair", b"\x80\x02ccollections\nOrderedDict\n" + pair
    yield "tuples in tuples", b"\x80\x02)" + b"\x85" * deep + b"."
    yield "marks", b"\x80\x02" + b"(" * deep + b"."
    for name, data in {
        "tuples twice in tuples": b"\x80\x02" + nested + b".",
        "such a tuple as a key": b"\x80\x02}" + nested + b"K\1s.",
        "such a tuple in a set": b"\x80\x02cbuiltins\nset\n](" + nested + b"e\x85R.",
        "such a tuple in a list of pairs": b"\x80\x02ccollections\nOrderedDict\n](" + nested + b"K\1\x86e\x85R.",
        "such a tuple as an attribute": b"\x80\x02ccollections\nOrderedDict\n)R](" + nested + b"K\1\x86eb.",
        "such a tuple as the clamp": holding(b"N")[:-1] + text("g_ema") + b"}s" + clamp + nested + b"s.",
        "such a tuple as a name": b"\x80\x04" + text("os") + nested + b"\x93.",
        "such a tuple as a module": b"\x80\x04" + nested + text("system") + b"\x93.",
        "such a tuple called": b"\x80\x02" + nested + b")R.",
        "such a tuple as a class": holding(
            PERSISTENT + b"}(" + text("state") + b"}" + text("class_name") + nested + b"u\x85R"
        ),
        "a list in itself": b"\x80\x02]q\0h\0a.",
        "a dict in itself": b"\x80\x02}q\0" + text("g_ema") + b"h\0s.",
        "equal hashes": b"\x80\x02}(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(1, 60_000)) + b"u.",
        "a memo place far away": b"\x80\x02}r\xff\xff\xff\xff" + b"j\xff\xff\xff\xff.",
        "what was not remembered": b"\x80\x02h\7.",
        "nothing on the stack": b"\x80\x020.",
        "a key alone": b"\x80\x02}(K\1u.",
        "text without end": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
        "bytes without end": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
        "a frame without end": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
        "a number without end": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"1.",
        "a number of less than nothing": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"1.",
        "a number of a megabyte": b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\7" * (1 << 20) + b".",
        "such a number as the clamp": MARKED + text("state_dict") + b"}s" + clamp + b"\x8a\xff" + b"\7" * 255 + b"s.",
        "a line without end": b"\x80\x02I" + b"1" * (1 << 20) + b"\n.",
        "a long name": b"\x80\x02c" + b"a" * (1 << 20) + b"\nb\n.",
        "half a surrogate": b"\x80\x02}X\3\0\0\0\xed\xb2\x80Ns.",
        "text that is none": b"\x80\x02X\2\0\0\0\xff\xfe.",
    }.items():
        yield name, data
        yield f"{name} zipped", zipped(data)
    yield "too many steps", zipped(b"\x80\x02" + b"K\1" * 500_001 + b".")
    yield "a list of itself", b"\x80\x02" + shared + b"."
    once = b"\x80\x02" + load + embedded(large)[len(load) - 2 : -2]
    yield "one payload many times", once + b"q\2](" + b"h\1h\2\x85R" * 200 + b"e."
    yield "a payload of many steps", b"\x80\x02](" + embedded(slow) * 9 + b"e."
    yield "a payload in a payload", b"\x80\x02" + embedded(storage_alone(embedded(payload))) + b"."
    yield "a payload that is zipped", b"\x80\x02" + embedded(laid(tensor((4,), (1,)))) + b"."
    yield "a payload of another size", b"\x80\x02" + embedded(storage_alone(numbers=struct.pack("<q", 5) + bytes(16)))
    yield "a payload that is a tensor", b"\x80\x02" + embedded(older(tensor((4,), (1,)))) + b"."
    yield "a payload that is text", b"\x80\x02ctorch.storage\n_load_from_bytes\n" + text("x") + b"\x85R."
    yield "a payload in an archive", laid(embedded(payload))


def _shapes():
    """Tensors that cannot exist."""
    many, fine = 1 << 39, tensor((4,), (1,))
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + fine + b"\x89}tR"
    grown = b"(" + persistent(4) + number(0) + number((10**9,))
    for name, value in {
        "too large": tensor((5,), (1,)),
        "too far in": tensor((2,), (1,), offset=3),
        "behind the start": tensor((2,), (1,), offset=-1),
        "less than nothing": tensor((-1,), (1,)),
        "backwards": tensor((2,), (-1,), offset=3),
        "one number spread out": tensor((1000, 1000), (0, 0)),
        "one row spread out": tensor((10**6, 4), (0, 1)),
        "overlapping": tensor((3, 2), (1, 1)),
        "sides without strides": tensor((2, 2), (1,)),
        "sides that are text": tensor(("2",), (1,)),
        "sides that are true": tensor((True,), (1,)),
        "too many sides": tensor((1,) * 65, (1,) * 65),
        "nothing, but wide": tensor((0, many), (1, 1)),
        "endless": tensor((2**70,), (1,)),
        "a large storage": REBUILD + b"(" + persistent(many) + number(0) + number((1,)) + number((1,)) + b"\x89}tR",
        "a storage of less than nothing": tensor((1,), (1,), count=-1),
        "with metadata": tensor((4,), (1,), more=number({"neg": True})),
        "set anew": fine + grown + number((1,)) + b"tb",
        "a parameter set anew": parameter + grown + number((0,)) + b"tb",
        "a storage dropped": persistent(many, "1") + b"0" + fine,
        "a storage in two types": persistent(2, kind=b"ctorch\nDoubleStorage\n") + b"0" + fine,
        "a storage in two sizes": persistent(8) + b"0" + fine,
        "a storage of no type": persistent(4, kind=b"N"),
        "a module's source": b"(" + text("module") + b"NNNtQ",
        "a storage outside": persistent(4, "../../secret"),
        "a view": persistent(4, more=number(("1", 0, 10**9))),
    }.items():
        yield f"{name} zipped", laid(value)
        yield f"{name} older", older(value)
    for name in ("G.", "synthesis/", "synthesis.b", "layer", "encoder."):
        for part in ("initial_", "0", "x/", "0.", "Noise/"):
            long = MARKED + text(name + part * 100_000) + fine + b"s."
            yield f"a long name, {name}{part}", zipped(long, {"data/0": bytes(16)})
    yield "missing numbers", zipped(holding(fine))
    yield "fewer numbers", laid(fine, b"\0" * 12)
    yield "more numbers", laid(fine, b"\0" * 20)
    yield "fewer numbers, older", older(fine, numbers=struct.pack("<q", 4) + b"\0" * 8)
    yield "another count, older", older(fine, numbers=struct.pack("<q", 9) + b"\0" * 36)
    yield "other keys, older", older(fine, keys=("1",))
    yield "keys twice, older", older(fine, keys=("0", "0"))
    yield "many names of one tensor", laid(fine + b"q\0" + b"".join(b"s" + text(str(n)) + b"h\0" for n in range(9000)))
    yield "tensors that are not a number", saved({"to_rgb1.bias": torch.full((4,), float("nan"))})
    yield "a big machine's", zipped(holding(fine), {"data/0": b"\0" * 16, "byteorder": b"big"})[:-9]
    column = torch.arange(3.0)
    yield "sparse", saved({"weight": torch.eye(3).to_sparse()})
    with warnings.catch_warnings(action="ignore"):  # they are being given up
        yield "quantized", saved({"weight": torch.quantize_per_tensor(column, 0.1, 0, torch.qint8)})
        yield "nested", saved({"weight": torch.nested.nested_tensor([column, column[:2]])})
    yield "meta", saved({"weight": torch.zeros(10**9, device="meta")})
    yield "complex", saved({"weight": torch.zeros(3, dtype=torch.complex64)})
    yield "float8", saved({"weight": torch.zeros(3).to(torch.float8_e4m3fn)})
    yield "numbers alone", saved(column)
    yield "a list of tensors", saved([column])
    yield "text among tensors", saved({"g_ema": {"weight": column, "note": "x"}})


def _networks():
    """Networks of TensorFlow, and arrays of NumPy, that are not what they say."""
    many, deep, source = 1 << 39, b"}", "raise SystemExit('the source code in a file was run')"
    for name, value in {
        "a huge shape": array((many, many)),
        "a shape of many axes": array((1,) * 64 + (4,)),
        "an endless shape": array((2**70,)),
        "nothing, but wide": array((0, many), b""),
        "less than nothing": array((-4,)),
        "less than nothing, twice": array((-2, -2)),
        "a true shape": array((True, 4)),
        "a shape that is text": array(("4",)),
        "fewer numbers": array((5,)),
        "more numbers": array((3,)),
        "objects": array((2,), code="O8", order="|"),
        "objects in a list": array((1,), data_opcodes=b"]Na", code="O8", order="|"),
        "records": array((2,), code="V8", order="|"),
        "texts": array((4,), code="U1"),
        "dates": array((2,), code="M8"),
        "complex": array((2,), code="c8"),
        "another order of bytes": array(order=">"),
        "an order that is none": array(order="?"),
        "a type that is none": array(code="f5"),
        "a type of many axes": array(code="(99999999,)f4"),
        "no flag": array(fortran=b"N"),
        "numbers that are text": array(data_opcodes=text("x" * 16)),
        "numbers that are a list": array(data_opcodes=b"]"),
        "numbers of another call": array(data_opcodes=b"c_codecs\nencode\n" + number(("x" * 16, "rot13")) + b"R"),
        "numbers that are no bytes": array(
            data_opcodes=b"c_codecs\nencode\n" + number(("\u1234" * 16, "latin1")) + b"R"
        ),
        "filled twice": array() + array()[array().index(b"(K\1") :],
        "another class": array().replace(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"),
        "a class called": b"cnumpy\nndarray\n" + number((many,)) + b"R",
        "not filled": array()[: array().index(b"(K\1")],
        "filled with a number": array()[: array().index(b"(K\1")] + b"K\1b",
        "a number of NumPy without numbers": b"cnumpy.core.multiarray\nscalar\n)R",
        "a buffer of another order": b"cnumpy.core.numeric\n_frombuffer\n(" + b"]NNNtR",
        "nothing": b"N",
        "text": text("weight"),
    }.items():
        data = b"\x80\x04" + network(variable("dlatent_avg", value)) + b"."
        yield name, data
        yield f"{name}, in another place", b"\x80\x04" + value + b"0" + network(variable("x", b"N")) + b"."
    code = number({"build_module_src": source, "build_func_name": "eval", "static_kwargs": {"func": source}})
    yield "source", b"\x80\x04" + network(build_module_src=source, build_func_name="os.system") + b"."
    yield "source as its state", b"\x80\x04cdnnlib.tflib.network\nNetwork\n)\x81" + code + b"b."
    yield "without a state", b"\x80\x04cdnnlib.tflib.network\nNetwork\n)\x81."
    yield "with arguments", b"\x80\x04cdnnlib.tflib.network\nNetwork\n" + number((source,)) + b"\x81" + code + b"b."
    yield (
        "a network in itself",
        b"\x80\x04cdnnlib.tflib.network\nNetwork\n)\x81q\7}"
        + text("components")
        + (b"}" + text("mapping") + b"h\7ss" + b"b."),
    )
    shared = b"}(" + text("a") + network() + b"q\7" + text("b") + b"h\7u"
    yield "one network in two places", b"\x80\x04" + network(components=shared) + b"."
    for _ in range(9):
        deep = b"}" + text("x") + network(components=deep) + b"s"
    yield "networks in networks", b"\x80\x04" + network(components=deep) + b"."
    yield "a part that is none", b"\x80\x04" + network(components=number({"mapping": None})) + b"."
    yield "parts that are a list", b"\x80\x04" + network(components=b"]") + b"."
    yield "a part without a name", b"\x80\x04" + network(components=b"}K\1" + network() + b"s") + b"."
    inside = b"}(" + b"".join(text(str(n)) + network() for n in range(5_000)) + b"u"
    yield "thousands of parts", b"\x80\x04" + network(components=inside) + b"."
    twice = variable("x", array()) * 2
    yield "a variable twice", b"\x80\x04" + network(twice) + b"."
    within = b"}" + text("a") + network(variable("x", array())) + b"s"
    yield "a variable twice, by its path", b"\x80\x04" + network(variable("a/x", array()), within) + b"."
    yield (
        "thousands of variables",
        b"\x80\x04" + network(b"".join(variable(str(n), array((), bytes(4))) for n in range(9_000))) + b".",
    )
    yield "variables that are none", b"\x80\x04" + network(number(1) + number(("x", 1, 2)) + number(("x",))) + b"."
    yield "a name that is none", b"\x80\x04" + network(b"K\1" + array() + b"\x86") + b"."
    large = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + b"q\7"
    same = variable("0", array((1 << 18,), data_opcodes=large))
    same += b"".join(variable(str(n), array((1 << 18,), data_opcodes=b"h\7")) for n in range(1, 900))
    yield "one text of bytes, many times", b"\x80\x04" + network(same) + b"."
    encode = b"c_codecs\nencode\nq\x08" + text("x" * (1 << 20)) + b"q\x09" + text("latin1") + b"q\x0b" + b"000"
    yield "one text made bytes many times", b"\x80\x04" + encode + b"](" + b"h\x08h\x09h\x0b\x86R" * 900 + b"e."
    knot = b"K\1" + b"".join(b"q\0h\0\x86" for _ in range(60))
    for name in ("static_kwargs", "version", "build_func_name"):
        tied = network().replace(text(name) + number({"version": 4, "build_func_name": "G_main"}.get(name, {})), b"")
        fields = tied[:-2] + text(name) + (b"}" + text("label_size") + knot + b"s" if name == "static_kwargs" else knot)
        yield f"a knot as the {name}", b"\x80\x04" + fields + b"ub."
    for name in ("conv_clamp", "mapping_lrmul", "architecture", "resample_kernel", "normalize_latents"):
        tied = network().replace(text("static_kwargs") + b"}", text("static_kwargs") + b"}" + text(name) + knot + b"s")
        yield f"a knot as the {name}", b"\x80\x04" + tied + b"."
    made, empty = (
        b"cpg_modules.networks_fastgan\nGenerator\n",
        b"}(" + b"".join(text(name) + b"}" for name in ("_parameters", "_buffers", "_modules")),
    )
    for name, data in {
        "called": made + number((source,)) + b"R",
        "with arguments": made + number((source,)) + b"\x81" + empty + b"ub",
        "without fields": made + b")\x81",
        "with other fields": made + b")\x81" + number({"_modules": 3}) + b"b",
        "empty": made + b")\x81" + empty + b"ub",
        "filled twice": made + b")\x81" + empty + b"ub" + empty + b"ub",
        "one in itself": made + b")\x81q\7" + empty + text("_modules") + b"}" + text("x") + b"h\7sub",
        "a knot as c_dim": made + b")\x81" + empty + text("c_dim") + knot + b"ub",
        "a knot as an argument": made + b"(" + knot + b"tR" + empty + b"ub",
        "a knot as a module": made + b")\x81" + empty + text("_modules") + b"}" + text("x") + knot + b"sub",
        "a name of a function": b"ctorch.nn.modules.module\nregister_module_forward_hook\n)R",
        "a name with dots": b"\x80\x04" + text("torch.nn.modules") + text("module.torch") + b"\x93)R",
    }.items():
        yield f"modules: {name}", b"\x80\x04" + data + b"."
        yield f"modules: {name}, as G_ema", b"\x80\x04}" + text("G_ema") + data + b"s."
    for name, data in {
        "three": b"NNN\x87",
        "none": b")",
        "two discriminators": network(build_func_name="D_main"),
    }.items():
        yield f"networks: {name}", b"\x80\x04" + data + b"."


def _archives():
    """Archives that can be read in two ways, or are damaged."""
    pickled = holding(tensor((4,), (1,)))
    good = zipped(pickled, {"data/0": bytes(16)})
    end, listed = good.rindex(b"PK\5\6"), good.index(b"PK\1\2")
    yield "deflated", zipped(b"\x80\x02" + b"N0" * (4 << 20) + b"N.", method=zipfile.ZIP_DEFLATED)
    yield "lzma", zipped(pickled, {"data/0": bytes(1 << 20)}, method=zipfile.ZIP_LZMA)
    yield "two pickles", zipped(pickled, {"data/0": bytes(16), "x/data.pkl": pickled})
    yield "names that differ in case", zipped(pickled, {"data/0": bytes(16), "Data.pkl": pickled})
    yield "names that end early", good.replace(b"archive/version", b"archive/v\0rsion")
    yield "names in other letters", zipped(pickled, {"data/0": bytes(16), "data.p\u212al": pickled})
    yield "the same place twice", _overlapping(good)
    sizes = struct.pack("<2L", 16, 16)
    yield "a record behind the end", good[:listed] + good[listed:].replace(sizes, struct.pack("<2L", 999, 999))
    yield "a record without end", good[:listed] + good[listed:].replace(sizes, b"\xff" * 8)
    yield "records that are counted wrong", good[: end + 8] + b"\1\0\1\0" + good[end + 12 :]
    yield "more in front", b"PK\3\4" + bytes(60) + good
    yield "a remark", good[:-2] + b"\4\0more"
    yield "more behind", good + b"more"
    yield "two archives", _twice(good, zipped(b"\x80\x02cos\nsystem\n.", {"data/0": bytes(16)}))
    yield "a script", zipped(pickled, {"data/0": bytes(16), "constants.pkl": b"\x80\x02).", "code/x.py": b"import os"})
    yield "no pickle", zipped(pickled, folder="archive/data.pkl")
    yield "an end alone", b"PK\5\6" + bytes(18)
    yield "a beginning alone", b"PK\3\4"
    tar = bytearray(older(b"(" + text("0" * 400) + tensor((4,), (1,)) + b"t"))
    tar[148:156] = b"        "
    tar[148:156] = b"%06o\0 " % sum(tar[:512])
    assert tarfile.is_tarfile(io.BytesIO(tar))
    yield "a tar archive as well", bytes(tar)


def _overlapping(archive):
    """Each record of the list pointing at the first."""
    out, place = bytearray(archive), archive.index(b"PK\1\2")
    while (place := archive.find(b"PK\1\2", place + 1)) > 0:
        out[place + 42 : place + 46] = bytes(4)
    return bytes(out)


def _records(count):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for index in range(count):
            archive.writestr(zipfile.ZipInfo(f"archive/{index}"), b"")
    return out.getvalue()


def _twice(first, second):
    """Whoever counts from the front sees the first archive, whoever counts from the end the second."""
    listed, shown = first.index(b"PK\1\2"), second.index(b"PK\1\2")
    fields = list(struct.unpack("<4s4H2LH", second[-22:]))
    room, listing = fields[5], first[listed:-22]
    assert len(listing) == room
    fields[6] = listed
    return first[:-22] + second[:shown] + second[shown:-22] + struct.pack("<4s4H2LH", *fields)


def _headers():
    """Headers of safetensors that are wrong."""
    entry = '"a":{"dtype":"%s","shape":%s,"data_offsets":%s}'
    for name, (dtype, shape, offsets) in {
        "an absurd shape": ("F32", "[1099511627776,1099511627776]", "[0,16]"),
        "a shape that wraps": ("F32", "[4611686018427387904,4]", "[0,0]"),
        "nothing, but wide": ("F32", "[0,1099511627776]", "[0,0]"),
        "less than nothing": ("F32", "[-1]", "[0,16]"),
        "another type": ("F33", "[4]", "[0,16]"),
        "a complex type": ("C64", "[2]", "[0,16]"),
        "eight bits": ("F8_E4M3", "[16]", "[0,16]"),
        "offsets behind the end": ("F32", "[4]", "[16,32]"),
        "offsets backwards": ("F32", "[4]", "[16,0]"),
        "a hole": ("F32", "[3]", "[4,16]"),
        "no list": ("F32", "4", "[0,16]"),
    }.items():
        yield name, safetensors("{" + entry % (dtype, shape, offsets) + "}", bytes(16))
    good = entry % ("F32", "[4]", "[0,16]")
    yield "one place twice", safetensors("{" + good + "," + good.replace('"a"', '"b"') + "}", bytes(16))
    yield "a long header", struct.pack("<Q", 1 << 62) + b"{}"
    yield "a header behind the end", struct.pack("<Q", 1000) + b"{}"
    many = ",".join(f'"{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(100_000))
    yield "many tensors", safetensors("{" + many + "}")
    yield "a deep header", safetensors('{"__metadata__":' + "[" * 1_000_000)
    yield "no text", safetensors(b"{\xff\xfe}")
    yield "unreadable names", safetensors("{" + good.replace("a", r"\u001b[2J", 1) + "}", bytes(16))
    yield "an absurd clamp", safetensors('{"__metadata__":{"conv_clamp":"-1e999"},' + good + "}", bytes(16))


def _endless():
    """Pickles of very many steps."""
    deep, small = 100_000, storage_alone(persistent(0), struct.pack("<q", 0))
    yield "lists in lists, closed late", b"\x80\x02" + b"]" + b"]q\0h\0a" * 100_000 + b"."
    yield "dicts in dicts", b"\x80\x02" + b"}X\1\0\0\0a" * deep + b"N" + b"s" * deep + b"."
    yield "lists in lists", b"\x80\x02" + b"]" * deep + b"a" * (deep - 1) + b"."
    yield "no end", b"\x80\x02" + b"N0" * 260_000
    yield "many payloads", b"\x80\x02](" + embedded(small) * 4_100 + b"e."


def _large():
    """Files that are large, or would be."""
    pickled = holding(tensor((4,), (1,)))
    yield "many records", _records(100_000)
    yield "deflated numbers", zipped(pickled, {"data/0": bytes(64 << 20)}, method=zipfile.ZIP_DEFLATED)
    yield "a huge pickle", zipped(b"\x80\x02" + b"N0" * (33 << 20) + b"N.")
    yield "a large header", safetensors("{" + " " * (90 << 20) + "}")


def _others():
    """Files that are no checkpoints."""
    yield "empty", b""
    yield "one byte", b"\x80"
    yield "zeros", bytes(1 << 20)
    yield "a pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
    yield "a page", b"  <!DOCTYPE html><html></html>"
    yield "text", b"{}"
    for begin in (b"", b"\x80\x02", b"\x80\x04\x95", b"PK\x03\x04", b"".join(OLDER[:1]), b"\xff\0\0\0\0\0\0\0{"):
        for seed in range(4):
            yield f"random {begin[:5]!r} {seed}", begin + random.Random(seed).randbytes(4096)


_ALL = (_calls, _bombs, _shapes, _networks, _archives, _headers, _others, _endless, _large)
GROUPS = {group.__name__.removeprefix("_"): group for group in _ALL}
