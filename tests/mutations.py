"""Changes of files at the places where they hurt: opcodes, numbers, names, lengths, lists of records."""

import io
import pickletools
import re
import zipfile

from hostile import zipped

OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
NAMES = [
    *(b"torch._utils\n_rebuild_tensor_v2\n", b"torch._utils\n_rebuild_parameter\n", b"torch\nFloatStorage\n"),
    *(b"torch\nDoubleStorage\n", b"torch\nTensor\n", b"torch.nn.parameter\nParameter\n", b"builtins\nset\n"),
    *(b"argparse\nNamespace\n", b"collections\nOrderedDict\n", b"os\nsystem\n", b"numpy\ndtype\n"),
    *(b"numpy\nndarray\n", b"numpy.core.multiarray\n_reconstruct\n", b"numpy.core.multiarray\nscalar\n"),
    *(b"numpy._core.numeric\n_frombuffer\n", b"_codecs\nencode\n", b"dnnlib.tflib.network\nNetwork\n"),
]
NUMBERS = [0, 1, 2, 7, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
TEXTS = [
    b"0",
    b"-1",
    b"4294967296",
    b"18446744073709551615",
    b"1e999",
    b"null",
    b"[]",
    b"{}",
    b'"F64"',
    b'"I8"',
    b"[0,0]",
]


def mutated(data, draw, others):
    """The same file with one to four changes; where it is an archive, mostly of the pickle within it."""
    if data[:2] == b"PK" and draw.random() < 0.7:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
        return zipped(_changed(records.pop("data.pkl"), draw, others), records)
    return _changed(data, draw, others)


def _changed(data, draw, others):
    for _ in range(draw.randint(1, 4)):
        data = draw.choice(CHANGES)(data, draw, others) or b"\x80"
    return data


def _flip(data, draw, others):
    out = bytearray(data)
    place = draw.randrange(len(out))
    out[place] ^= 1 << draw.randrange(8)
    return bytes(out)


def _byte(data, draw, others):
    place = draw.randrange(len(data))
    return data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]


def _cut(data, draw, others):
    return data[: draw.randrange(len(data))]


def _remove(data, draw, others):
    place = draw.randrange(len(data))
    return data[:place] + data[place + draw.randint(1, 64) :]


def _copy(data, draw, others):
    start, place, length = draw.randrange(len(data)), draw.randrange(len(data)), draw.choice([1, 8, 64, 1024])
    return data[:place] + data[start : start + length] + data[place:]


def _splice(data, draw, others):
    other = draw.choice(list(others))
    start, place, length = draw.randrange(len(other)), draw.randrange(len(data)), draw.choice([8, 64, 1024])
    return data[:place] + other[start : start + length] + data[place + draw.choice([0, length]) :]


def _number(data, draw, others):
    place, width = draw.randrange(len(data)), draw.choice([1, 2, 4, 8])
    value = draw.choice(NUMBERS) % 2 ** (8 * width)
    return data[:place] + value.to_bytes(width, draw.choice(["little", "little", "big"])) + data[place + width :]


def _text(data, draw, others):
    """Another value in a header."""
    found = list(re.finditer(rb'\d+|"[A-Z]+\d+"|\[[\d,]*\]', data[:8192]))
    if not found:
        return data
    match = draw.choice(found)
    return data[: match.start()] + draw.choice(TEXTS) + data[match.end() :]


def _record(data, draw, others):
    """Another number in the list of an archive's records."""
    found = [match.start() for match in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06|\x06\x06|\x06\x07)", data)]
    if not found:
        return data
    place, width = draw.choice(found) + draw.randrange(4, 46), draw.choice([2, 4, 8])
    value = draw.choice([draw.choice(NUMBERS), len(data), draw.randrange(len(data))]) % 2 ** (8 * width)
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]


def _opcode(data, draw, others):
    """An opcode of a pickle changed, repeated, removed, or another put in."""
    steps = _steps(data)
    if not steps:
        return _byte(data, draw, others)
    index = draw.randrange(len(steps) - 1) if len(steps) > 1 else 0
    place, after = steps[index], steps[index + 1] if len(steps) > 1 else len(data)
    step, length = data[place:after], draw.choice([1, 1, 2, 5, 20])
    more = data[place : steps[min(index + length, len(steps) - 1)]]
    new = draw.choice(
        [
            draw.choice(OPCODES) + step[1:],
            step + step,
            b"",
            draw.choice(OPCODES) + step,
            b"c" + draw.choice(NAMES),
            b"c" + draw.choice(NAMES) + step,
            more * draw.choice([2, 2, 50]),
            step + b"R",
            step + b"b",
            step + b"Q",
            b"\x8a\x08" + (draw.choice(NUMBERS) % 2**63).to_bytes(8, "little"),
            b"\x8a\x01" + draw.choice([b"\0", b"\1", b"\xff", b"\x80"]),
            b"h" + bytes([draw.randrange(256)]),
            b"q" + bytes([draw.randrange(256)]) + step,
        ]
    )
    return data[:place] + new + data[after:]


def _steps(data):
    """Where the opcodes of the pickles stand that follow each other at a file's beginning."""
    file, found = io.BytesIO(data), []
    try:
        while True:
            found += [place for _, _, place in pickletools.genops(file)]
    except Exception:  # numbers follow the pickles
        return found


CHANGES = [_flip, _byte, _cut, _remove, _copy, _splice, _number, _text, _record, *[_opcode] * 8]
