"""Malformed inputs of every form, and a process that reads them one after another.

`python tests/malformed.py FOLDER [WORD ...]` prints a JSON line for each. A case writes its files
into an empty folder and says which path is opened, by what, and what the error has to name. Every
case is opened in a child of its own, which has ten seconds, three GiB of address space more than
its parent, and the reading code warm; its peak of memory is taken from where it began.
Code that a file carries leaves a file called `canary` behind, wherever the process stands.
"""

import io
import json
import os
import pickle
import signal
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

GIB = 2**30
CASES, HARMLESS = {}, {}


@dataclass(frozen=True)
class Case:
    "One malformed input."

    form: str
    write: Callable[[Path], Path]  # into an empty folder; which path is opened
    says: tuple[str, ...]  # parts of the error's sentence
    error: str  # its type
    opens: str  # key of OPENERS


def bad(
    form: str,
    name: str,
    write: Callable[[Path], Path],
    *says: str,
    error: str = "DataError",
    opens: str = "clips",
) -> None:
    key = f"{form}: {name}"
    assert key not in CASES and says, key
    CASES[key] = Case(form, write, says, error, opens)


def fine(form: str, name: str, write: Callable[[Path], Path], good: Callable[[Path], Path]) -> None:
    "An input that looks odd, and has to be read as its plain sister."
    HARMLESS[f"{form}: {name}"] = (write, good)


# ---- code that a file may carry


class Call:
    "Pickles as a call of a function."

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


TRAPS = {
    "os.system": lambda: Call(os.system, "touch canary"),
    "builtins.eval": lambda: Call(eval, "open('canary', 'w')"),
    "builtins.exec": lambda: Call(exec, "open('canary', 'w')"),
    "builtins.open": lambda: Call(open, "canary", "w"),
    "getattr": lambda: Call(getattr, Call(__import__, "os"), "system"),
    "pathlib": lambda: Call(Path.touch, Path("canary")),
}


def text_trap() -> bytes:
    return b"(S'touch canary'\nios\nsystem\n."  # INST, protocol 0


def obj_trap() -> bytes:
    return b"(cos\nsystem\nS'touch canary'\no."  # OBJ


def stack_trap() -> bytes:
    return b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch canary\x85R."  # STACK_GLOBAL


def numpy_trap() -> bytes:
    "A function of numpy's own that runs text."
    text = b"open('canary', 'w')"
    return (
        b"\x80\x02cnumpy.testing._private.utils\nrunstring\nX"
        + struct.pack("<I", len(text))
        + text
        + b"}\x86R."
    )


def deep_pickle(levels=200_000) -> bytes:
    return b"\x80\x04" + b"]" * levels + b"a" * (levels - 1) + b"."


def laughs(levels=40) -> bytes:
    "A list of ten times the list before it: ten to the 40th ways through 400 references."
    inner = b"]q\x00"
    for k in range(1, levels):
        inner += b"](" + bytes([b"h"[0], k - 1]) * 10 + b"eq" + bytes([k])
    return b"\x80\x04" + inner + b"."


def laughing(levels=40):
    "The same as a value."
    value = ["ha"]
    for _ in range(levels):
        value = [value] * 10
    return value


def shared_bytes() -> bytes:
    "64 KiB that are there 60,000 times, or 4 GB for who copies them."
    return (
        b"\x80\x04B"
        + struct.pack("<I", 2**16)
        + bytes(2**16)
        + b"q\x00]("
        + b"h\x00" * 60_000
        + b"e."
    )


def claimed_pickles() -> dict[str, bytes]:
    "Pickles of a few bytes that ask for much memory."
    import numpy as np

    array = pickle.dumps(np.zeros(3), protocol=2)
    return {
        "BINBYTES8 of 10 GB": b"\x80\x04\x8e" + struct.pack("<Q", 10**10) + b"abc.",
        "BINUNICODE8 of 2^62": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc.",
        "BYTEARRAY8 of 10 GB": b"\x80\x05\x96" + struct.pack("<Q", 10**10) + b"abc.",
        "FRAME of 2^60": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"].",
        "LONG4 of 2 GB": b"\x80\x04\x8b" + struct.pack("<I", 2**31 - 1) + b"\x01.",
        "a memo of 2^30 places": b"\x80\x04]r" + struct.pack("<I", 2**30) + b".",
        "a memo by text": b"]p999999999\n.",
        "bytearray(10^10)": (
            b"\x80\x04cbuiltins\nbytearray\n\x8a\x05" + (10**10).to_bytes(5, "little") + b"\x85R."
        ),
        "an array made of 10^10 bytes": (
            b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x8a\x05"
            + (10**10).to_bytes(5, "little")
            + b"\x85C\x01b\x87R."
        ),
        "an array said to have 10^9 numbers": array.replace(
            b"K\x01K\x03\x85", b"K\x01J" + struct.pack("<i", 10**9) + b"\x85"
        ),
        "one text of bytes 60,000 times": shared_bytes(),
        "a zip bomb by codec": (
            b"\x80\x04c_codecs\ndecode\nB"
            + (lambda z: struct.pack("<I", len(z)) + z)(zlib.compress(bytes(2**31 - 1 >> 4), 9))
            + b"X\x03\x00\x00\x00zip\x86R."
        ),
    }


# ---- what can be done to any file


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def cut(good, share, *inner):
    "The good input, the (inner) file cut off."

    def write(folder):
        path = good(folder)
        file = path.joinpath(*inner)
        return put(file, file.read_bytes()[: int(share * file.stat().st_size)]) and path

    return write


def instead(good, data, *inner):
    "The good input with other bytes in place of the (inner) file's."

    def write(folder):
        path = good(folder)
        put(path.joinpath(*inner), data() if callable(data) else data)
        return path

    return write


def fifo(good, *inner):
    "A pipe that nobody writes to in place of the (inner) file."

    def write(folder):
        path = good(folder)
        file = path.joinpath(*inner)
        file.unlink()
        os.mkfifo(file)
        return path

    return write


def device(good, *inner):
    "An endless file."

    def write(folder):
        path = good(folder)
        file = path.joinpath(*inner)
        file.unlink()
        file.symlink_to("/dev/zero")
        return path

    return write


def loop(good):
    "A folder that holds itself."

    def write(folder):
        path = good(folder)
        (path / "again").symlink_to(path, target_is_directory=True)
        return path

    return write


def unicode16(good, *inner):
    def write(folder):
        path = good(folder)
        file = path.joinpath(*inner)
        return put(file, file.read_bytes().decode().encode("utf-16")) and path

    return write


def reworded(good, old: bytes, new: bytes, *inner):
    "The good input, some bytes of the (inner) file replaced everywhere."

    def write(folder):
        path = good(folder)
        file = path.joinpath(*inner)
        was = file.read_bytes()
        assert old in was, (file.name, old)
        return put(file, was.replace(old, new)) and path

    return write


DEEP_JSON = b"[" * 200_000 + b"]" * 200_000


# ---- .npz by hand


def npy(
    array: np.ndarray | None = None,
    header: str | None = None,
    body: bytes | None = None,
    version=(1, 0),
) -> bytes:
    "The bytes of an .npy, its header as given."
    file = io.BytesIO()
    if header is None:
        np.lib.format.write_array(file, array, allow_pickle=True)
        return file.getvalue()
    text = (header + " " * (-(10 + len(header) + 1) % 64) + "\n").encode("latin1")
    return (
        b"\x93NUMPY"
        + bytes(version)
        + struct.pack("<H", len(text))
        + text
        + (b"" if body is None else body)
    )


def claims(dtype: str, shape: str, body: bytes = b"\0" * 24) -> bytes:
    return npy(
        header=f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}", body=body
    )


def pack(path: Path, members, deflate=False) -> Path:
    "An archive of (name, bytes or number of zero bytes)."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as z:
        for name, data in members:
            with z.open(name, "w", force_zip64=True) as file:
                if isinstance(data, int):
                    [file.write(bytes(2**20)) for _ in range(data >> 20)]
                else:
                    file.write(data)
    return path


def zeros(dtype: str, shape: tuple) -> tuple[bytes, int]:
    "Header and length of an array of zeros that is written by `pack` member by member."
    return claims(dtype, repr(shape), b""), int(np.prod(shape)) * np.dtype(dtype).itemsize


def pack_zeros(path: Path, arrays: dict, name: str, dtype: str, shape: tuple) -> Path:
    "Good arrays, and one of zeros in a few kilobytes."
    header, length = zeros(dtype, shape)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
        for k, a in arrays.items():
            if k != name:
                z.writestr(f"{k}.npy", npy(np.asarray(a)))
        with z.open(f"{name}.npy", "w", force_zip64=True) as file:
            file.write(header)
            while length > 0:
                file.write(bytes(min(length, 2**24)))
                length -= 2**24
    return path


def members(arrays: dict) -> dict[str, bytes]:
    return {f"{k}.npy": npy(np.asarray(a)) for k, a in arrays.items()}


def change_central(path: Path, name: bytes, offset: int, form: str, value) -> Path:
    "Another entry in the archive's own list."
    data = bytearray(path.read_bytes())
    at = data.rindex(name) - 46  # the fixed part of an entry stands before its name
    assert data[at : at + 4] == b"PK\x01\x02"
    struct.pack_into(form, data, at + offset, value)
    return put(path, bytes(data))


# ---- this package's own .npz, and the one with named joints

STICK = {"joints": ["hip", "spine", "head"], "edges": [[0, 1], [1, 2]]}
T = (2, 5, 1, 4)  # frames of clips a, b, c, d


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def named_arrays() -> dict:
    return {
        "keypoints": numbers(12, 3, 3),
        "offsets": np.array([0, 2, 7, 8, 12]),
        "label": np.array([0, 1, 0, 1]),
        "split": np.array([0, 0, 1, 1]),
        "name": np.array(list("abcd")),
        "class_names": np.array(["turn", "jump"]),
        "joint_names": np.array(STICK["joints"]),
        "edges": np.array(STICK["edges"]),
        "subject": np.array([3, 4, 5, 5]),
    }


def own_arrays() -> dict:
    header = {
        "skeleton": {"name": "stick", **STICK, "center": 0},
        "meta": {"name": "four", "coordinates": "xyz"},
    }
    a = named_arrays()
    return {
        "form": np.array("mdr_repro clips 1"),
        "header": np.array(json.dumps(header)),
        "frames": a["keypoints"][:, None],
        "offsets": a["offsets"],
        "labels": a["label"],
        "split": a["split"],
        "names": a["name"],
        "class_names": a["class_names"],
        "meta.subject": a["subject"],
    }


def npz(arrays=named_arrays, compressed=False, **changes):
    "A writer of the arrays with some exchanged; None leaves one out."

    def write(folder):
        found = {
            k: changes[k](v) if callable(changes.get(k)) else changes.get(k, v)
            for k, v in arrays().items()
        }
        found = {k: v for k, v in found.items() if v is not None} | {
            k: v for k, v in changes.items() if k not in found and v is not None
        }
        (np.savez_compressed if compressed else np.savez)(folder / "clips.npz", **found)
        return folder / "clips.npz"

    return write


def raw(arrays=named_arrays, deflate=False, more=(), **changes):
    "A writer of the arrays with some members' bytes exchanged, and more members."
    return lambda folder: pack(
        folder / "clips.npz",
        [*(members(arrays()) | {f"{k}.npy": v for k, v in changes.items()}).items(), *more],
        deflate,
    )


def at(index, value):
    def change(a):
        a = a.copy()
        a[index] = value
        return a

    return change


named, own = npz(), npz(own_arrays)

for share in (0.02, 0.3, 0.7, 0.999):
    bad("named npz", f"cut at {share}", cut(named, share), "cut off or damaged", "copy or download")
bad("named npz", "empty file", instead(named, b""), "")
bad(
    "named npz",
    "nan",
    npz(keypoints=at((4, 2, 1), np.nan)),
    "clip 1 ('b'), frame 2, person 0, joint 2 (head): y is nan",
    "set all coordinates",
)
bad("named npz", "inf", npz(keypoints=at((11, 0, 0), np.inf)), "clip 3 ('d'), frame 3", "x is inf")
bad(
    "named npz",
    "beyond float32",
    npz(keypoints=lambda a: a.astype(np.float64) * 1e300),
    "clip 0 ('a'), frame 0",
    "inf",
)
bad(
    "named npz",
    "text for numbers",
    npz(keypoints=lambda a: a.astype(str)),
    "array 'keypoints' is of type <U",
    "numbers",
)
bad(
    "named npz",
    "complex numbers",
    npz(keypoints=lambda a: a + 1j),
    "array 'keypoints' is of type complex",
    "numbers",
)
bad("named npz", "structured array", npz(keypoints=np.zeros(12, "f4,f4,f4")), "array 'keypoints'")
bad(
    "named npz",
    "five axes",
    npz(keypoints=lambda a: a[None, :, None]),
    "array 'keypoints' has shape",
    "4 axes",
)
bad("named npz", "no frame", npz(keypoints=lambda a: a[:0]), "nothing in it")
bad(
    "named npz",
    "no clip",
    npz(offsets=[0], label=np.zeros(0, int), split=np.zeros(0, int), name=np.zeros(0, "U1")),
    "offsets",
    "no clip",
)
bad("named npz", "label above", npz(label=at(3, 2)), "clip 3 ('d') has label 2", "2 classes")
bad(
    "named npz",
    "label beyond int64",
    npz(label=np.array([0, 1, 2**63, 1], np.uint64)),
    "clip 2 ('c') has label",
    "class_names",
)
bad("named npz", "label missing", npz(label=None), "array 'label' is missing")
bad("named npz", "labels too few", npz(label=lambda a: a[:3]), "labels has 3 entries", "4 clips")
bad("named npz", "split unknown", npz(split=at(1, 9)), "clip 1 ('b') has split 9", "0 (train)")
bad(
    "named npz", "name twice", npz(name=np.array(list("abad"))), "names holds 'a' 2 times", "rename"
)
bad(
    "named npz",
    "class twice",
    npz(class_names=["turn", "turn"]),
    "class_names holds 'turn' 2 times",
)
bad(
    "named npz",
    "edge outside",
    npz(edges=[[0, 1], [1, 2**40]]),
    "edge (1, 1099511627776) names a joint outside",
)
bad(
    "named npz",
    "edges in a ring",
    npz(edges=[[0, 1], [1, 2], [2, 0]]),
    "array 'edges' leaves 0 joints without a parent",
)
bad(
    "named npz",
    "offsets that wrap around",
    npz(offsets=np.array([0, 2, 2**63, 8, 12], np.uint64)),
    "offsets falls",
)
bad(
    "named npz",
    "object array with code",
    npz(name=np.array([TRAPS["os.system"]()] * 4, object)),
    "array 'name' holds pickled Python objects",
)
bad(
    "named npz",
    "object array with code, unused",
    npz(notes=np.array([TRAPS["builtins.eval"]()] * 4, object)),
    "array 'notes' holds pickled Python objects",
)
bad(
    "named npz",
    "10 GB in an array's header",
    raw(keypoints=claims("<f4", "(2500000000, 1, 1)")),
    "array 'keypoints' is damaged",
    "its header tells of float32 [2500000000, 1, 1]",
)
bad(
    "named npz",
    "10^18 numbers in an array's header",
    raw(label=claims("<i8", "(1000000000000000000,)")),
    "array 'label' is damaged",
)
bad(
    "named npz",
    "negative shape",
    raw(offsets=claims("<i8", "(-3, -1)")),
    "array 'offsets' is damaged",
)
bad(
    "named npz",
    "10^9 empty texts",
    raw(class_names=claims("<U0", "(1000000000,)", b"")),
    "array 'class_names' is damaged",
)
bad(
    "named npz",
    "code in an array's header",
    raw(
        split=npy(
            header=(
                "{'descr': '<i8', 'fortran_order': False, 'shape': (__import__('os').system('touch"
                " canary'),), }"
            ),
            body=bytes(32),
        )
    ),
    "array 'split' is damaged",
)
bad(
    "named npz",
    "a header nested deeply",
    raw(split=npy(header="(" * 9000 + ")" * 9000)),
    "array 'split' is damaged",
)
bad(
    "named npz",
    "a bomb of 256 MiB",
    lambda f: pack_zeros(f / "clips.npz", named_arrays(), "keypoints", "<f4", (2**25, 1, 2)),
    "array 'keypoints' would unpack from",
    "256 MiB",
)
bad(
    "named npz",
    "three bombs of 100 MiB",
    lambda f: pack(
        f / "clips.npz",
        [*members(named_arrays()).items(), *((f"x{k}.npy", 100 * 2**20) for k in range(3))],
        True,
    ),
    "the file would unpack from",
)
bad(
    "named npz",
    "a member that leads outside",
    raw(more=[("../../canary.npy", npy(np.zeros(4)))]),
    "'../../canary'",
    "no name of an array",
)
bad(
    "named npz",
    "a member with an absolute name",
    raw(more=[("/canary.npy", npy(np.zeros(4)))]),
    "'/canary'",
    "no name of an array",
)
bad(
    "named npz",
    "a member with a line break",
    raw(more=[("a\nb.npy", npy(np.zeros(4)))]),
    r"'a\nb'",
    "no name of an array",
)
bad(
    "named npz",
    "a link in the archive",
    lambda f: _linked(f / "clips.npz"),
    "array 'keypoints' is damaged",
)
bad(
    "named npz",
    "one array twice",
    raw(more=[("label.npy", npy(np.array([1, 0, 1, 0])))]),
    "array 'label' is there twice",
)
bad(
    "named npz",
    "a member that is no array",
    raw(keypoints=b"x,y,z\n1,2,3\n"),
    "array 'keypoints' is damaged",
)
bad(
    "named npz",
    "10 GB in the archive's list",
    lambda f: change_central(npz()(f), b"label.npy", 24, "<I", 0xFFFFFFF0),
    "array 'label'",
)
bad(
    "named npz",
    "an archive with a password",
    lambda f: change_central(npz()(f), b"keypoints.npy", 8, "<H", 1),
    "array 'keypoints' is damaged",
)
bad(
    "named npz",
    "an archive of nothing",
    lambda f: pack(f / "clips.npz", []),
    "no known form of clips",
)
bad(
    "named npz",
    "other arrays",
    lambda f: np.savez(f / "clips.npz", images=np.zeros(3)) or f / "clips.npz",
    "it holds images",
    "known: ",
)
bad("named npz", "a pipe", fifo(named), "")
bad("named npz", "a device", device(named), "")
bad(
    "named npz",
    "a link to itself",
    lambda f: (f / "clips.npz").symlink_to("clips.npz") or f / "clips.npz",
    "",
)
bad("named npz", "no such file", lambda f: f / "clips.npz", "no such file")
fine(
    "named npz",
    "numbers of 16 bytes",
    npz(subject=np.array([3, 4, 5, 5], np.longdouble)),
    npz(subject=np.array([3, 4, 5, 5], np.float64)),
)
fine(
    "named npz",
    "numbers of the other byte order",
    npz(
        keypoints=lambda a: a.astype(">f4"),
        label=lambda a: a.astype(">i2"),
        subject=lambda a: a.astype(">i8"),
    ),
    named,
)
fine("named npz", "columns first", npz(keypoints=np.asfortranarray), named)
fine("named npz", "compressed", npz(compressed=True), named)


def _linked(path: Path) -> Path:
    "An archive whose keypoints are a symbolic link to a file outside."
    with zipfile.ZipFile(path, "w") as z:
        for k, data in members(named_arrays()).items():
            info = zipfile.ZipInfo(k)
            if k == "keypoints.npy":
                info.external_attr, data = 0o120777 << 16, b"/etc/passwd"
            z.writestr(info, data)
    return path


def header(**changes):
    def change(a):
        h = json.loads(str(a))
        for key, value in changes.items():
            part, _, field = key.partition("__")
            if field:
                h[part][field] = value
            else:
                h[part] = value
        return np.array(json.dumps(h))

    return npz(own_arrays, header=change)


for share in (0.1, 0.5, 0.95):
    bad("own npz", f"cut at {share}", cut(own, share), "cut off or damaged", "copy or download")
bad(
    "own npz",
    "another version",
    npz(own_arrays, form=np.array("mdr_repro clips 9")),
    "'mdr_repro clips 9'",
    "save it again",
)
bad(
    "own npz",
    "a header that is no JSON",
    npz(own_arrays, header=np.array("{")),
    "array 'header' is no JSON",
    "save the clips again",
)
bad(
    "own npz",
    "a header nested deeply",
    npz(own_arrays, header=np.array(DEEP_JSON.decode()[:40_000])),
    "array 'header'",
)
bad("own npz", "a header of a list", npz(own_arrays, header=np.array("[1, 2]")), "array 'header'")
bad(
    "own npz",
    "a header that is missing",
    npz(own_arrays, header=None, keypoints=None),
    "no known form of clips",
)
bad("own npz", "a header of numbers", npz(own_arrays, header=np.zeros(3)), "array 'header'")
bad("own npz", "no skeleton", header(skeleton=None), "array 'header'")
bad(
    "own npz",
    "an edge outside",
    header(skeleton__edges=[[0, 1], [1, 7]]),
    "array 'header'",
    "edge (1, 7)",
)
bad(
    "own npz",
    "a joint number of 5000 digits",
    npz(
        own_arrays,
        header=lambda a: np.array(str(a).replace('"center": 0', f'"center": {"9" * 5000}')),
    ),
    "array 'header'",
)
bad(
    "own npz",
    "joints of another skeleton",
    header(skeleton__joints=["hip", "head"], skeleton__edges=[[0, 1]]),
    "3 joints a person",
    "2",
)
bad(
    "own npz",
    "coordinates that are none",
    header(meta__coordinates="abc"),
    "meta[\"coordinates\"] is 'abc'",
    "xyz",
)
bad("own npz", "coordinates of an odd type", header(meta__coordinates={}), 'meta["coordinates"]')
bad("own npz", "meta of numbers", header(meta=7), "array 'header'")
bad("own npz", "no name", header(meta__name=None), "name")
bad(
    "own npz",
    "frames of whole text",
    npz(own_arrays, frames=lambda a: a.astype("U8")),
    "array 'frames'",
    "numbers",
)
bad(
    "own npz",
    "frames in three axes",
    npz(own_arrays, frames=lambda a: a[:, 0]),
    "array 'frames' has shape [12, 3, 3]",
    "4 axes",
)
bad("own npz", "no person", npz(own_arrays, frames=lambda a: a[:, :0]), "nothing in it")
bad(
    "own npz",
    "nan",
    npz(own_arrays, frames=at((7, 0, 1, 2), np.nan)),
    "clip 2 ('c'), frame 0, person 0, joint 1 (spine): z is nan",
)
bad("own npz", "too few names", npz(own_arrays, names=np.array(list("abc"))), "names has 3 entries")
bad(
    "own npz",
    "a number a clip for too few",
    npz(own_arrays, **{"meta.subject": np.array([1, 2])}),
    "'subject'",
    "4 clips",
)
bad(
    "own npz",
    "10 GB in an array's header",
    raw(own_arrays, frames=claims("<f8", "(1250000000, 1, 1, 1)")),
    "array 'frames' is damaged",
)
bad(
    "own npz",
    "a bomb of 256 MiB",
    lambda f: pack_zeros(f / "clips.npz", own_arrays(), "meta.subject", "<i8", (2**25,)),
    "array 'meta.subject' would unpack",
)
bad(
    "own npz",
    "object array with code",
    npz(own_arrays, class_names=np.array([TRAPS["builtins.exec"]()] * 2, object)),
    "array 'class_names' holds pickled Python objects",
)


# ---- FSD-10: an .npy of padded clips and a pickle of their names and labels

FSD_NAMES = {"train": [f"skate_{k}" for k in range(4)], "val": [f"skate_{k}" for k in range(4, 6)]}


def fsd_data(n: int, t=20) -> np.ndarray:  # [N, 3, T, 25, 1], zero behind 9 + k frames
    data = np.zeros((n, 3, t, 25, 1), np.float32)
    for k in range(n):
        data[k, :, : 9 + k] = numbers(3, 9 + k, 25, 1, seed=k).clip(-1, 1)
    return data


def fsd(data=None, labels=None, part="train", drop=()):
    """A writer of the four files; `data` changes the train array, `labels` gives other bytes of its
    pickle."""

    def write(folder):
        folder = folder / "fsd"
        folder.mkdir()
        for p, names in FSD_NAMES.items():
            array, own = fsd_data(len(names)), (names, [k % 2 for k in range(len(names))])
            if p == part and data is not None:
                array = data(array)
            np.save(folder / f"{p}_data_25.npy", array, allow_pickle=True)
            put(
                folder / f"{p}_label_25.pkl",
                labels(*own) if p == part and labels is not None else pickle.dumps(own),
            )
        for name in drop:
            (folder / name).unlink()
        return folder

    return write


def pickled(change, protocol=4):
    return lambda names, labels: pickle.dumps(change(list(names), list(labels)), protocol)


def after_header(path: Path, header: str, keep=3000) -> Path:
    "An .npy with another header before its first bytes."
    body = path.read_bytes()[128 : 128 + keep]
    return put(path, npy(header=header, body=body))


FSD, NPY, PKL = fsd(), "train_data_25.npy", "train_label_25.pkl"
for name, trap in TRAPS.items():
    bad(
        "FSD-10",
        f"a pickle that calls {name}",
        fsd(
            labels=lambda names, labels, trap=trap: pickle.dumps((names, [*labels[1:], trap()]), 2)
        ),
        PKL,
    )
for protocol in range(6):
    bad(
        "FSD-10",
        f"a pickle of protocol {protocol} with code",
        fsd(labels=pickled(lambda n, k: ([TRAPS["os.system"](), *n[1:]], k), protocol)),
        PKL,
    )
for name, trap in (
    ("INST", text_trap),
    ("OBJ", obj_trap),
    ("STACK_GLOBAL", stack_trap),
    ("numpy's own functions", numpy_trap),
):
    bad("FSD-10", f"a pickle that calls by {name}", fsd(labels=lambda *_, trap=trap: trap()), PKL)
for name, data in claimed_pickles().items():
    bad("FSD-10", f"a pickle that claims {name}", fsd(labels=lambda *_, data=data: data), PKL)
bad("FSD-10", "a pickle nested deeply", fsd(labels=lambda *_: deep_pickle()), PKL)
bad("FSD-10", "a pickle of a billion laughs", fsd(labels=lambda *_: laughs()), PKL)
bad(
    "FSD-10",
    "a billion laughs as a label",
    fsd(labels=pickled(lambda n, k: (n, [laughing(), *k[1:]]))),
    PKL,
)
bad(
    "FSD-10",
    "a billion laughs as a name",
    fsd(labels=pickled(lambda n, k: ([laughing(), *n[1:]], k))),
    PKL,
)
bad(
    "FSD-10",
    "code in an array of objects",
    fsd(labels=pickled(lambda n, k: (np.array([TRAPS["os.system"](), *n[1:]], object), k))),
    PKL,
)
bad(
    "FSD-10",
    "code in an array of arrays of objects",
    fsd(
        labels=pickled(
            lambda n, k: (
                n,
                np.array([np.array([TRAPS["builtins.exec"]()], object), *k[1:]], object),
            )
        )
    ),
    PKL,
)
bad("FSD-10", "a list that holds itself", fsd(labels=lambda *_: b"\x80\x04]q\x00h\x00a."), PKL)
for share in (0.1, 0.5, 0.9):
    bad("FSD-10", f"labels cut at {share}", cut(FSD, share, PKL), PKL)
bad("FSD-10", "labels of no byte", instead(FSD, b"", PKL), PKL)
bad("FSD-10", "labels that are text", instead(FSD, b"skate_0 3\nskate_1 4\n", PKL), PKL)
bad("FSD-10", "labels that are a pipe", fifo(FSD, PKL), PKL)
bad("FSD-10", "labels that are a device", device(FSD, PKL), PKL)
bad("FSD-10", "no labels", fsd(drop=[PKL]), PKL)
bad("FSD-10", "labels in a dict", fsd(labels=pickled(lambda n, k: dict(zip(n, k)))), PKL)
bad("FSD-10", "too few labels", fsd(labels=pickled(lambda n, k: (n, k[:-1]))), PKL, "3", "4")
bad(
    "FSD-10",
    "more names than clips",
    fsd(labels=pickled(lambda n, k: ([*n, "skate_9"], [*k, 1]))),
    "5",
    "4",
)
bad(
    "FSD-10",
    "a label below 0",
    fsd(labels=pickled(lambda n, k: (n, [-1, *k[1:]]))),
    "'skate_0'",
    "-1",
)
bad(
    "FSD-10",
    "a label that no class has",
    fsd(labels=pickled(lambda n, k: (n, [10**6, *k[1:]]))),
    "'skate_0'",
    "1000000",
)
bad(
    "FSD-10",
    "a label of text",
    fsd(labels=pickled(lambda n, k: (n, ["axel", *k[1:]]))),
    "'skate_0'",
    "axel",
)
bad(
    "FSD-10",
    "a label of 5000 bits",
    fsd(labels=pickled(lambda n, k: (n, [2**5000, *k[1:]]))),
    "'skate_0'",
)
bad(
    "FSD-10",
    "a label and a half",
    fsd(labels=pickled(lambda n, k: (n, [0.5, *k[1:]]))),
    "'skate_0'",
    "0.5",
)
bad("FSD-10", "a name twice", fsd(labels=pickled(lambda n, k: ([n[1], *n[1:]], k))), "'skate_1'")
bad(
    "FSD-10",
    "a training name in the tests",
    fsd(labels=pickled(lambda n, k: (["skate_0", n[1]], k)), part="val"),
    "'skate_0'",
)
bad(
    "FSD-10", "nan", fsd(at((2, 1, 4, 7, 0), np.nan)), "'skate_2'", "frame 4", "joint 7", "y is nan"
)
bad(
    "FSD-10",
    "inf in the score",
    fsd(at((3, 2, 0, 0, 0), np.inf)),
    "'skate_3'",
    "frame 0",
    "s is inf",
)
bad("FSD-10", "a clip of zeros", fsd(at(1, 0)), "'skate_1'", "no frame")
bad("FSD-10", "18 joints", fsd(lambda a: a[:, :, :, :18]), NPY, "18", "25")
bad("FSD-10", "axes of another order", fsd(lambda a: a.transpose(0, 2, 3, 1, 4)), NPY)
bad("FSD-10", "no person", fsd(lambda a: a[..., :0]), NPY)
bad("FSD-10", "5 persons of a flat array", fsd(lambda a: a[..., 0]), NPY)
bad("FSD-10", "no room for a frame", fsd(lambda a: a[:, :, :0]), "")
bad("FSD-10", "no clip", fsd(lambda a: a[:0]), "")
bad("FSD-10", "an array of text", fsd(lambda a: a.astype("U4")), NPY)
bad(
    "FSD-10",
    "an array of objects with code",
    fsd(lambda a: np.array([TRAPS["os.system"]()] * 4, object)),
    NPY,
    "pickled",
)
for share in (0.001, 0.5, 0.999):
    bad("FSD-10", f"clips cut at {share}", cut(FSD, share, NPY), NPY)
bad("FSD-10", "clips of no byte", instead(FSD, b"", NPY), NPY)
bad("FSD-10", "clips that are a pipe", fifo(FSD, NPY), NPY)
bad("FSD-10", "clips that are a device", device(FSD, NPY), NPY)
bad(
    "FSD-10",
    "10 GB in the header",
    lambda f: (
        after_header(
            (p := FSD(f)) / NPY,
            "{'descr': '<f4', 'fortran_order': False, 'shape': (33333, 3, 1000, 25, 1), }",
        )
        and p
    ),
    NPY,
)
bad(
    "FSD-10",
    "a number beyond all in the header",
    lambda f: (
        after_header(
            (p := FSD(f)) / NPY,
            f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 3, 9, 25, 1), }}",
        )
        and p
    ),
    NPY,
)
bad(
    "FSD-10",
    "code in the header",
    lambda f: (
        after_header(
            (p := FSD(f)) / NPY,
            "{'descr': open('canary', 'w'), 'fortran_order': False, 'shape': (4,), }",
        )
        and p
    ),
    NPY,
)
fine(
    "FSD-10",
    "protocol 2 and numpy labels",
    fsd(labels=pickled(lambda n, k: (n, np.array(k)), 2)),
    FSD,
)
fine("FSD-10", "names of numpy", fsd(labels=pickled(lambda n, k: (np.array(n), k))), FSD)
fine(
    "FSD-10",
    "float64 and longer padding",
    fsd(lambda a: np.pad(a.astype(np.float64), [(0, 0), (0, 0), (0, 7), (0, 0), (0, 0)])),
    FSD,
)


# ---- PYSKL: a pickle of annotations


def annotations() -> dict:
    notes = [
        {
            "frame_dir": f"gym_{k}",
            "label": k % 3,
            "keypoint": numbers(1, 5 + k, 17, 2, seed=k).astype(np.float16) * 50 + 100,
            "keypoint_score": np.full((1, 5 + k, 17), 0.5, np.float16),
            "total_frames": 5 + k,
            "img_shape": (480, 640),
            "original_shape": (480, 640),
        }
        for k in range(6)
    ]
    return {
        "split": {
            "train": [n["frame_dir"] for n in notes[:4]],
            "val": [n["frame_dir"] for n in notes[4:]],
        },
        "annotations": notes,
    }


def pyskl(change=lambda d: d, protocol=4, raw=None):
    "A writer of the pickle after `change`, which may change the dict or give another value."

    def write(folder):
        value = annotations()
        changed = change(value)
        return put(
            folder / "gym.pkl",
            raw() if raw else pickle.dumps(value if changed is None else changed, protocol),
        )

    return write


def note(k, **fields):
    "A change of one annotation; None takes a field away."

    def change(d):
        for key, value in fields.items():
            old = d["annotations"][k].pop(key, None)
            if value is not None:
                d["annotations"][k][key] = value(old) if callable(value) else value

    return change


PYSKL = pyskl()
for name, trap in TRAPS.items():
    bad(
        "PYSKL",
        f"{name} in a keypoint",
        pyskl(
            note(2, keypoint=trap())
            if name != "os.system"
            else note(2, keypoint=np.array([trap()], object))
        ),
        "pickle",
    )
for protocol in range(6):
    bad(
        "PYSKL",
        f"code in protocol {protocol}",
        pyskl(note(5, notes=[{"deep": (TRAPS["os.system"](),)}]), protocol),
        "pickle",
    )
for name, data in claimed_pickles().items():
    bad("PYSKL", f"a pickle that claims {name}", pyskl(raw=lambda data=data: data), "")
bad("PYSKL", "nested deeply", pyskl(raw=deep_pickle), "")
bad("PYSKL", "a billion laughs", pyskl(raw=laughs), "")
for field in ("label", "frame_dir", "keypoint", "keypoint_score", "img_shape", "total_frames"):
    bad("PYSKL", f"a billion laughs as {field}", pyskl(note(2, **{field: laughing()})), "")
bad(
    "PYSKL", "a billion laughs as split", pyskl(lambda d: d.update(split={"train": laughing()})), ""
)
bad(
    "PYSKL",
    "a billion laughs as a name in a split",
    pyskl(lambda d: d["split"]["train"].append(laughing())),
    "",
)
bad(
    "PYSKL",
    "an object of a class of the reader",
    pyskl(note(0, keypoint=lambda a: Path("canary"))),
    "pickle",
)
for share in (0.05, 0.5, 0.99):
    bad("PYSKL", f"cut at {share}", cut(PYSKL, share), "")
bad("PYSKL", "a number in place of a dict", pyskl(lambda d: 7), "")
bad("PYSKL", "no annotation", pyskl(lambda d: d.update(annotations=[])), "annotation")
bad("PYSKL", "annotations missing", pyskl(lambda d: {"split": d["split"]}), "annotations")
bad(
    "PYSKL",
    "annotations of text",
    pyskl(lambda d: d.update(annotations=["gym_0", "gym_1"])),
    "annotation",
)
bad("PYSKL", "a split of numbers", pyskl(lambda d: d.update(split=3)), "split")
bad(
    "PYSKL",
    "a split that names nobody",
    pyskl(lambda d: d["split"].update(train=["gym_0", "gym_77"])),
    "'gym_77'",
)
bad("PYSKL", "no keypoint", pyskl(note(2, keypoint=None)), "'gym_2'", "keypoint")
bad("PYSKL", "no label", pyskl(note(2, label=None)), "'gym_2'", "label")
bad("PYSKL", "a label below 0", pyskl(note(2, label=-3)), "'gym_2'", "-3")
bad("PYSKL", "a label of text", pyskl(note(2, label="vault")), "'gym_2'", "vault")
bad("PYSKL", "a label of nan", pyskl(note(2, label=float("nan"))), "'gym_2'", "nan")
bad("PYSKL", "a label that no class has", pyskl(note(2, label=10**9)), "'gym_2'", "1000000000")
bad("PYSKL", "a name twice", pyskl(note(2, frame_dir="gym_1")), "'gym_1'")
bad(
    "PYSKL",
    "nan",
    pyskl(note(3, keypoint=at((0, 4, 2, 1), np.nan))),
    "'gym_3'",
    "frame 4",
    "joint 2",
    "nan",
)
bad(
    "PYSKL",
    "18 joints",
    pyskl(
        note(
            1,
            keypoint=np.zeros((1, 6, 18, 2), np.float16),
            keypoint_score=np.ones((1, 6, 18), np.float16),
        )
    ),
    "'gym_1'",
    "18",
)
bad(
    "PYSKL",
    "joints that change from clip to clip",
    pyskl(
        note(
            1,
            keypoint=np.ones((1, 6, 25, 2), np.float16),
            keypoint_score=np.ones((1, 6, 25), np.float16),
        )
    ),
    "'gym_1'",
    "25",
)
bad(
    "PYSKL",
    "scores of other frames",
    pyskl(note(1, keypoint_score=lambda a: a[:, 1:])),
    "'gym_1'",
    "keypoint_score",
)
bad(
    "PYSKL",
    "total_frames that are not there",
    pyskl(note(1, total_frames=600)),
    "'gym_1'",
    "total_frames",
)
bad(
    "PYSKL",
    "0 bodies",
    pyskl(note(1, keypoint=lambda a: a[:0], keypoint_score=lambda a: a[:0])),
    "'gym_1'",
)
bad(
    "PYSKL",
    "0 frames",
    pyskl(note(1, keypoint=lambda a: a[:, :0], keypoint_score=lambda a: a[:, :0], total_frames=0)),
    "'gym_1'",
)
bad(
    "PYSKL",
    "keypoints of text",
    pyskl(note(1, keypoint=lambda a: a.astype(str))),
    "'gym_1'",
    "keypoint",
)
bad(
    "PYSKL",
    "keypoints in a ragged list",
    pyskl(note(1, keypoint=[[[1.0, 2.0]], [[1.0]]])),
    "'gym_1'",
    "keypoint",
)
bad("PYSKL", "an image of no size", pyskl(note(1, img_shape=(0, 640))), "'gym_1'", "img_shape")
bad("PYSKL", "an image of odd size", pyskl(note(1, img_shape="large")), "'gym_1'", "img_shape")
bad("PYSKL", "a device", device(PYSKL), "")
bad("PYSKL", "a pipe", fifo(PYSKL), "")
fine("PYSKL", "protocol 2", pyskl(protocol=2), PYSKL)
fine(
    "PYSKL",
    "more fields than are known",
    pyskl(note(0, bbox=np.zeros((5, 4)), flags={"a": [1, None]})),
    PYSKL,
)


# ---- NTU RGB+D: a folder of text files


def skeleton_text(frames=14, bodies=(1,), joints=25, seed=0) -> str:
    "The text of a .skeleton file; `bodies` in frame t: the t-th entry, the last one for the rest."
    rng, lines = np.random.default_rng(seed), [str(frames)]
    for t in range(frames):
        n = bodies[min(t, len(bodies) - 1)]
        lines.append(str(n))
        for b in range(n):
            lines += [f"7205759403792793{b} 0 1 1 1 1 0 0.02 -0.2 2", str(joints)]
            lines += [
                " ".join(
                    f"{x:.7g}"
                    for x in (
                        0.1 * b + 0.2 * rng.random(),
                        j / 20 + 0.05 * rng.random(),
                        3 + 0.01 * t,
                        *rng.random(8),
                    )
                )
                + " 2"
                for j in range(joints)
            ]
    return "\n".join(lines) + "\n"


NTU_NAMES = [f"S001C00{c}P00{p}R001A00{a}" for c in (1, 2) for p in (1, 3) for a in (1, 2)]


def ntu(change=lambda text: text, which=0, names=NTU_NAMES, line="\n", **shape):
    "A writer of eight clips; `change` and `shape` are of the one."

    def write(folder):
        folder = folder / "skeletons"
        for k, name in enumerate(names):
            text = change(skeleton_text(**shape)) if k == which else skeleton_text(seed=k)
            put(folder / f"{name}.skeleton", text.replace("\n", line))
        return folder

    return write


def line_of(number, text):
    "The file with another line, counted from 0."

    def change(whole):
        lines = whole.split("\n")
        lines[number] = text(lines[number]) if callable(text) else text
        return "\n".join(lines)

    return change


NTU, ONE = ntu(), NTU_NAMES[0]
FILE = f"{ONE}.skeleton"
for share in (0.0, 0.01, 0.4, 0.97):
    bad("NTU", f"cut at {share}", cut(NTU, share, FILE), ONE)
bad("NTU", "more frames than are there", ntu(line_of(0, "15")), ONE, "frame")
bad("NTU", "fewer frames than are there", ntu(line_of(0, "9")), ONE, "frame")
bad("NTU", "10^12 frames", ntu(line_of(0, "1000000000000")), ONE)
bad("NTU", "10^12 bodies", ntu(line_of(1, "1000000000000")), ONE, "frame 0")
bad("NTU", "a count of 5000 digits", ntu(line_of(0, "9" * 5000)), ONE)
bad("NTU", "-1 frames", ntu(line_of(0, "-1")), ONE, "frame")
bad("NTU", "24 joints in one frame", ntu(line_of(3, "24")), ONE, "24 joints")
bad("NTU", "20 joints", ntu(joints=20), ONE, "20 joints")
bad("NTU", "nan", ntu(line_of(4, lambda s: "nan" + s[s.index(" ") :])), ONE, "frame 0")
bad("NTU", "inf", ntu(line_of(4, lambda s: "1e400" + s[s.index(" ") :])), ONE, "frame 0")
bad(
    "NTU",
    "a word for a number",
    ntu(line_of(4, lambda s: "left" + s[s.index(" ") :])),
    ONE,
    "frame 0",
    "left",
)
bad(
    "NTU",
    "a line with 11 values",
    ntu(line_of(4, lambda s: s[s.index(" ") + 1 :])),
    ONE,
    "11 values",
)
bad(
    "NTU",
    "one body twice in a frame",
    ntu(lambda s: s.replace("72057594037927931", "72057594037927930"), bodies=(2,)),
    ONE,
    "twice",
)
bad("NTU", "bytes of nothing", instead(NTU, bytes(5000), FILE), ONE)
bad("NTU", "UTF-16", unicode16(NTU, FILE), ONE)
bad("NTU", "a name of no such kind", ntu(names=["S001C001P001R001A001", "walking"]), "walking")
bad(
    "NTU",
    "a name beyond all actions",
    ntu(names=["S001C001P001R001A001", "S001C001P001R001A999"]),
    "A999",
)
bad("NTU", "nobody in any file", ntu(names=[ONE], bodies=(0,)), "")
bad(
    "NTU",
    "the same clip in two folders",
    lambda f: put((p := NTU(f)) / "more" / FILE, skeleton_text()) and p,
    f"'{ONE}'",
)
bad(
    "NTU",
    "a list of missing samples that is none",
    lambda f: put((p := NTU(f)) / "ntu_missing_skeletons.txt", "none missing\n") and p,
    "missing_skeletons.txt",
)
bad("NTU", "a pipe", fifo(NTU, FILE), ONE)
bad("NTU", "a device", device(NTU, FILE), ONE)
bad(
    "NTU",
    "a list of missing samples that is a pipe",
    lambda f: os.mkfifo((p := NTU(f)) / "ntu_missing_skeletons.txt") or p,
    "missing_skeletons.txt",
)
fine("NTU", "CRLF", ntu(line="\r\n"), NTU)
bad("NTU", "a folder that holds itself", loop(NTU), f"'{ONE}'", "twice")
fine(
    "NTU",
    "a file in which nobody is",
    ntu(names=[*NTU_NAMES, "S001C001P001R001A003"], which=8, bodies=(0,)),
    lambda f: _left_out(NTU(f), "S001C001P001R001A003"),
)


def _left_out(folder: Path, name: str) -> Path:
    return put(folder / f"{name}.skeleton", "0\n") and folder


# ---- NTU RGB+D as the .npz of the CTR-GCN form


def ctr_arrays() -> dict:
    def part(n, seed):
        x = np.zeros((n, 30, 150), np.float32)
        for k in range(n):
            x[k, : 8 + k, : 75 * (1 + k % 2)] = numbers(8 + k, 75 * (1 + k % 2), seed=seed + k)
        return x, np.eye(60)[np.arange(n) % 3]

    (x, y), (u, v) = part(5, 0), part(3, 9)
    return {"x_train": x, "y_train": y, "x_test": u, "y_test": v}


def ctr(**changes):
    return npz(ctr_arrays, **changes)


for share in (0.05, 0.6, 0.99):
    bad("NTU arrays", f"cut at {share}", cut(ctr(), share), "")
bad("NTU arrays", "y_test missing", ctr(y_test=None), "y_test")
bad("NTU arrays", "149 columns", ctr(x_train=lambda a: a[:, :, :149]), "x_train", "149")
bad("NTU arrays", "four axes", ctr(x_train=lambda a: a[None]), "x_train")
bad("NTU arrays", "numbers of text", ctr(x_test=lambda a: a[:, :, :].astype("U5")), "x_test")
bad("NTU arrays", "nan", ctr(x_train=at((2, 3, 4), np.nan)), "clip 'train_2'", "frame 3", "nan")
bad(
    "NTU arrays",
    "inf",
    ctr(x_test=at((1, 0, 80), np.inf)),
    "clip 'test_1'",
    "frame 0, person 1",
    "inf",
)
bad("NTU arrays", "labels of another number", ctr(y_train=lambda a: a[:4]), "y_train", "4", "5")
bad("NTU arrays", "two classes at once", ctr(y_train=at((1, 7), 1)), "y_train", "1")
bad("NTU arrays", "no class", ctr(y_train=at(1, 0)), "y_train", "1")
bad("NTU arrays", "labels of nan", ctr(y_train=at((1, 7), np.nan)), "y_train", "1")
bad("NTU arrays", "77 classes in one, 60 in the other", ctr(y_test=np.eye(77)[:3]), "y_t", "77")
bad("NTU arrays", "no room for a frame", ctr(x_train=lambda a: a[:, :0]), "")
bad(
    "NTU arrays",
    "no clip",
    ctr(
        x_train=lambda a: a[:0],
        y_train=lambda a: a[:0],
        x_test=lambda a: a[:0],
        y_test=lambda a: a[:0],
    ),
    "",
)
bad(
    "NTU arrays",
    "an array of objects with code",
    ctr(y_train=np.array([TRAPS["os.system"]()] * 5, object)),
    "y_train",
    "object",
)
bad(
    "NTU arrays",
    "10 GB in an array's header",
    raw(ctr_arrays, x_train=claims("<f4", "(55556, 300, 150)")),
    "x_train",
)
bad(
    "NTU arrays",
    "a bomb of 256 MiB",
    lambda f: pack_zeros(f / "ntu.npz", ctr_arrays(), "x_train", "<f4", (1500, 300, 150)),
    "x_train",
)
bad(
    "NTU arrays",
    "a member twice",
    raw(ctr_arrays, more=[("x_test.npy", npy(np.zeros((3, 30, 150))))]),
    "x_test",
)
bad(
    "NTU arrays",
    "a member that leads outside",
    raw(ctr_arrays, more=[("../canary.npy", npy(np.zeros(3)))]),
    "canary",
)
fine("NTU arrays", "float64", ctr(x_train=lambda a: a.astype(np.float64)), ctr())


# ---- JSON files of pose estimators


def person(joints=25, seed=0, **more) -> dict:
    return {
        "person_id": [-1],
        "pose_keypoints_2d": (numbers(joints, 3, seed=seed) % 1 + 0.01).round(3).flatten().tolist(),
        **more,
    }


def poses(
    change=None, which="jump/a/a_000000000001_keypoints.json", joints=25, raw=None, table=None
):
    """A writer of four clips of three OpenPose files each, in two classes; `change` is of one
    file's value, `raw` are other bytes of it."""

    def write(folder):
        folder = folder / "poses"
        for label, names in (("jump", "ab"), ("spin", "cd")):
            for k, name in enumerate(names):
                for t in range(3):
                    inner = f"{label}/{name}/{name}_{t:012d}_keypoints.json"
                    value = {"version": 1.3, "people": [person(joints, seed=10 * k + t)]}
                    if inner == which and change is not None:
                        value = change(value)
                    put(
                        folder / inner,
                        raw if inner == which and raw is not None else json.dumps(value),
                    )
        if table is not None:
            put(folder / "labels.csv", table)
        return folder

    return write


def coco(change=lambda v: v):
    "A writer of four clips, each a file of COCO results."

    def write(folder):
        for label, names in (("jump", "ab"), ("spin", "cd")):
            for k, name in enumerate(names):
                value = [
                    {
                        "image_id": f"{t}.jpg",
                        "category_id": 1,
                        "keypoints": (numbers(17, 3, seed=k + t) % 1 + 0.01).flatten().tolist(),
                        "score": 0.9,
                        "track_id": 1,
                    }
                    for t in range(4)
                ]
                put(
                    folder / "coco" / label / f"{name}.json",
                    json.dumps(change(value) if name == "b" else value),
                )
        return folder / "coco"

    return write


POSES, POSE = poses(), "jump/a/a_000000000001_keypoints.json"
SHORT = "a_000000000001_keypoints.json"
TABLE = (
    "name,label,split\njump/a,jump,train\njump/b,jump,test\nspin/c,spin,train\nspin/d,spin,test\n"
)
for share in (0.0, 0.5, 0.95):
    bad("pose JSON", f"cut at {share}", cut(POSES, share, POSE), SHORT)
bad("pose JSON", "nested deeply", poses(raw=DEEP_JSON), SHORT)
bad("pose JSON", "bytes of nothing", poses(raw=bytes(3000)), SHORT)
bad("pose JSON", "UTF-16", unicode16(POSES, POSE), SHORT, "UTF-8")
bad(
    "pose JSON",
    "Latin-1",
    poses(raw='{"film": "Kür", "people": []}'.encode("latin1")),
    SHORT,
    "UTF-8",
)
bad("pose JSON", "a list in place of a frame", poses(lambda v: 5), SHORT)
bad("pose JSON", "people of text", poses(lambda v: {"people": "nobody"}), SHORT)
bad("pose JSON", "a person of numbers", poses(lambda v: {"people": [3]}), SHORT)
bad(
    "pose JSON",
    "a person without keypoints",
    poses(lambda v: {"people": [{"person_id": [-1]}]}),
    SHORT,
    "keypoints",
)
bad("pose JSON", "18 joints in one frame", poses(lambda v: {"people": [person(18)]}), SHORT, "18")
bad("pose JSON", "19 joints in every frame", poses(joints=19), "19")
bad(
    "pose JSON",
    "two of three numbers",
    poses(lambda v: {"people": [{"pose_keypoints_2d": v["people"][0]["pose_keypoints_2d"][:-1]}]}),
    SHORT,
    "pose_keypoints_2d",
)
bad(
    "pose JSON",
    "words for numbers",
    poses(lambda v: {"people": [{"pose_keypoints_2d": ["left"] * 75}]}),
    SHORT,
    "pose_keypoints_2d",
)
bad(
    "pose JSON",
    "nan",
    poses(lambda v: {"people": [{"pose_keypoints_2d": [float("nan")] * 75}]}),
    "jump/a",
    "frame 1",
    "nan",
)
bad(
    "pose JSON",
    "inf",
    poses(lambda v: {"people": [{"pose_keypoints_2d": [float("inf")] + [0.5] * 74}]}),
    "jump/a",
    "frame 1",
    "inf",
)
bad(
    "pose JSON",
    "a number of 400 digits",
    poses(raw='{"people": [{"pose_keypoints_2d": [' + "9" * 400 + ", 1" * 74 + "]}]}"),
    "a",
)
bad(
    "pose JSON",
    "a number of 5000 digits",
    poses(raw='{"people": [{"pose_keypoints_2d": [' + "9" * 5000 + ", 1" * 74 + "]}]}"),
    SHORT,
)
bad(
    "pose JSON",
    "101 bodies",
    poses(lambda v: {"people": [person(seed=k) for k in range(101)]}),
    SHORT,
    "101",
)
bad("pose JSON", "nobody in any frame", lambda f: _nobody(POSES(f)), "jump/a")
bad(
    "pose JSON",
    "a clip of no file",
    lambda f: ((d := POSES(f)) / "jump" / "empty").mkdir() or d,
    "jump/empty",
)
bad("pose JSON", "a device", device(POSES, POSE), SHORT)
bad("pose JSON", "a pipe", fifo(POSES, POSE), SHORT)
bad("pose JSON", "a folder that holds itself", loop(POSES), "again")
bad(
    "pose JSON",
    "a table without labels",
    poses(table="name,split\njump/a,train\n"),
    "labels.csv",
    "label",
)
bad("pose JSON", "a table of one line", poses(table="name,label\n"), "labels.csv")
bad(
    "pose JSON",
    "a table that leads outside",
    poses(table=TABLE + "../../secret,jump,train\n"),
    "labels.csv, line 6",
    "../../secret",
)
bad(
    "pose JSON",
    "a table with an absolute name",
    poses(table=TABLE + "/etc,jump,train\n"),
    "labels.csv, line 6",
    "/etc",
)
bad(
    "pose JSON", "a table with a clip twice", poses(table=TABLE + "jump/a,spin,train\n"), "'jump/a'"
)
bad(
    "pose JSON",
    "a table with a clip that is not there",
    poses(table=TABLE + "jump/e,jump,train\n"),
    "labels.csv, line 6",
    "jump/e",
)
bad(
    "pose JSON",
    "a table with no label",
    poses(table=TABLE.replace("jump/b,jump,", "jump/b,,")),
    "labels.csv, line 3",
    "label",
)
bad(
    "pose JSON",
    "a table with an unknown split",
    poses(table=TABLE.replace("b,jump,test", "b,jump,tset")),
    "labels.csv, line 3",
    "tset",
)
bad(
    "pose JSON",
    "a table of too many entries",
    poses(table=TABLE + "jump/a,jump,train,7,8\n"),
    "labels.csv",
)
bad("pose JSON", "a table in UTF-16", poses(table=TABLE.encode("utf-16")), "labels.csv", "UTF-8")
bad(
    "pose JSON",
    "a table with a quote that does not end",
    poses(table=TABLE + '"jump/a,jump,train\n'),
    "labels.csv",
)
bad(
    "pose JSON",
    "a table that is a pipe",
    lambda f: os.mkfifo((d := POSES(f)) / "labels.csv") or d,
    "labels.csv",
)
bad(
    "pose JSON",
    "a film of no size",
    poses(
        table=TABLE.replace("split", "split,width,height")
        .replace("train", "train,640,0")
        .replace("test", "test,640,480")
    ),
    "labels.csv, line 2",
)
bad(
    "pose JSON",
    "COCO results without keypoints",
    coco(lambda v: [{**v[0], "keypoints": None}]),
    "b.json",
    "keypoints",
)
bad(
    "pose JSON",
    "COCO results of other joints",
    coco(lambda v: [*v, {**v[0], "keypoints": [1.0] * 75}]),
    "b.json",
    "25",
)
bad(
    "pose JSON",
    "COCO annotations of no image",
    coco(lambda v: {"images": [{"id": 1}], "annotations": [{**v[0], "image_id": 2}]}),
    "b.json",
    "image_id 2",
)
bad("pose JSON", "no frame in a file", coco(lambda v: []), "jump/b")
fine(
    "pose JSON",
    "a byte order mark",
    lambda f: put((d := POSES(f)) / POSE, b"\xef\xbb\xbf" + (d / POSE).read_bytes()) and d,
    POSES,
)
fine("pose JSON", "a table with CRLF", poses(table=TABLE.replace("\n", "\r\n")), poses(table=TABLE))
fine(
    "pose JSON",
    "fields that nobody knows",
    coco(lambda v: [{**e, "bbox": [0, 0, 1, 1], "segmentation": {"a": [None]}} for e in v]),
    coco(),
)


def _nobody(folder: Path) -> Path:
    for file in folder.glob("jump/a/*.json"):
        put(file, '{"people": []}')
    return folder


# ---- NW-UCLA: a folder of JSON files

UCLA_NAMES = [f"a{a:02d}_s{s:02d}_e00_v{v:02d}" for a in (1, 2) for s in (1, 2) for v in (1, 3)]


def ucla(change=None, which=0, raw=None, names=UCLA_NAMES):
    "A writer of eight clips; `change` is of one file's value, `raw` are other bytes of it."

    def write(folder):
        for k, name in enumerate(names):
            value = {
                "file_name": name,
                "skeletons": numbers(6 + k % 5, 20, 3, seed=k).round(4).tolist(),
                "label": int(name[1:3]) if name[1:3].isdigit() else 1,
            }
            if k == which and change is not None:
                value = change(value)
            put(
                folder / "ucla" / f"{name}.json",
                raw if k == which and raw is not None else json.dumps(value),
            )
        return folder / "ucla"

    return write


UCLA, JFILE = ucla(), f"{UCLA_NAMES[0]}.json"
for share in (0.0, 0.5, 0.98):
    bad("NW-UCLA", f"cut at {share}", cut(UCLA, share, JFILE), UCLA_NAMES[0])
bad("NW-UCLA", "nested deeply", ucla(raw=DEEP_JSON), UCLA_NAMES[0])
bad("NW-UCLA", "UTF-16", unicode16(UCLA, JFILE), UCLA_NAMES[0], "UTF-8")
bad("NW-UCLA", "a list in place of a clip", ucla(lambda v: [v]), UCLA_NAMES[0])
bad(
    "NW-UCLA",
    "no skeletons",
    ucla(lambda v: {"file_name": v["file_name"], "label": 1}),
    UCLA_NAMES[0],
    "skeletons",
)
bad("NW-UCLA", "no frame", ucla(lambda v: {**v, "skeletons": []}), UCLA_NAMES[0])
bad(
    "NW-UCLA",
    "19 joints",
    ucla(lambda v: {**v, "skeletons": [f[:19] for f in v["skeletons"]]}),
    UCLA_NAMES[0],
    "19",
)
bad(
    "NW-UCLA",
    "19 joints in one frame",
    ucla(lambda v: {**v, "skeletons": [v["skeletons"][0][:19], *v["skeletons"][1:]]}),
    UCLA_NAMES[0],
)
bad(
    "NW-UCLA",
    "two coordinates",
    ucla(lambda v: {**v, "skeletons": [[j[:2] for j in f] for f in v["skeletons"]]}),
    UCLA_NAMES[0],
)
bad(
    "NW-UCLA",
    "nan",
    ucla(lambda v: {**v, "skeletons": [[[float("nan")] * 3] * 20]}),
    UCLA_NAMES[0],
    "frame 0",
    "nan",
)
bad(
    "NW-UCLA",
    "beyond float32",
    ucla(lambda v: {**v, "skeletons": [[[1e300] * 3] * 20]}),
    UCLA_NAMES[0],
    "frame 0",
)
bad(
    "NW-UCLA",
    "a number of 400 digits",
    ucla(
        raw=json.dumps(
            {"file_name": UCLA_NAMES[0], "label": 1, "skeletons": [[[0, 0, 77]] * 20]}
        ).replace("77", "9" * 400)
    ),
    UCLA_NAMES[0],
)
bad(
    "NW-UCLA",
    "words for numbers",
    ucla(lambda v: {**v, "skeletons": [[["x", "y", "z"]] * 20]}),
    UCLA_NAMES[0],
    "frame 0",
)
bad(
    "NW-UCLA",
    "null for numbers",
    ucla(lambda v: {**v, "skeletons": [[[None] * 3] * 20]}),
    UCLA_NAMES[0],
)
bad(
    "NW-UCLA",
    "a label that is not in its name",
    ucla(lambda v: {**v, "label": 9}),
    UCLA_NAMES[0],
    "label",
)
bad(
    "NW-UCLA",
    "an action that there is none",
    ucla(names=[*UCLA_NAMES, "a07_s01_e00_v01"]),
    "a07_s01_e00_v01",
)
bad(
    "NW-UCLA",
    "a camera that there is none",
    ucla(names=[*UCLA_NAMES, "a01_s01_e00_v09"]),
    "a01_s01_e00_v09",
)
bad("NW-UCLA", "a device", device(UCLA, JFILE), UCLA_NAMES[0])
bad("NW-UCLA", "a pipe", fifo(UCLA, JFILE), UCLA_NAMES[0])
fine(
    "NW-UCLA",
    "a byte order mark",
    lambda f: put((d := UCLA(f)) / JFILE, b"\xef\xbb\xbf" + (d / JFILE).read_bytes()) and d,
    UCLA,
)
fine(
    "NW-UCLA",
    "a file of another kind among them",
    lambda f: put((d := UCLA(f)) / "notes.json", "{}") and d,
    UCLA,
)
fine("NW-UCLA", "a folder that holds itself", loop(UCLA), UCLA)


# ---- Kinder-Gator: a folder of CSV files

COLUMNS = [
    f"{joint}{axis}"
    for joint in (
        "HipCenter Spine ShoulderCenter Head ShoulderLeft ElbowLeft WristLeft HandLeft"
        " ShoulderRight ElbowRight WristRight HandRight HipLeft KneeLeft AnkleLeft FootLeft"
        " HipRight KneeRight AnkleRight FootRight"
    ).split()
    for axis in "XYZ"
]
GATOR_NAMES = {
    "POSE-p565_01-Raise-your-hand-1469182402284": (565, "Raise-your-hand"),
    "POSE-p604_39-Throw-a-ball--1469182402285": (604, "Throw-a-ball-"),
    "POSE-p342_21-Jump-1469182750416": (342, "Jump"),
}
KFILE = "POSE-p342_21-Jump-1469182750416.csv"


def csv_text(who: int, motion: str, frames=6, seed=0) -> str:
    rows = [
        ",".join(
            [
                f"{36794471.6 + 33 * t}",
                *map(str, numbers(60, seed=seed + t).round(4)),
                str(who),
                motion,
            ]
        )
        + ","
        for t in range(frames)
    ]
    return "\n".join([",".join(["Timestamp", *COLUMNS, "User-ID", "Action"]) + ",", *rows]) + "\n"


def gator(change=lambda text: text, names=GATOR_NAMES, line="\n"):
    "A writer of three clips; `change` is of the last one's text."

    def write(folder):
        for k, (name, told) in enumerate(names.items()):
            text = csv_text(*told, seed=9 * k)
            put(
                folder / "gator" / f"{name}.csv",
                (change(text) if name + ".csv" == KFILE else text).replace("\n", line),
            )
        return folder / "gator"

    return write


def cell(line, column, value):
    "The text with another entry; line 0 is the head."

    def change(text):
        rows = [row.split(",") for row in text.split("\n")]
        rows[line][column] = value
        return "\n".join(map(",".join, rows))

    return change


GATOR = gator()
bad("Kinder-Gator", "empty file", instead(GATOR, b"", KFILE), KFILE)
bad("Kinder-Gator", "only a head", gator(lambda s: s.split("\n")[0] + "\n"), "Jump")
bad("Kinder-Gator", "cut in the head", cut(GATOR, 0.1, KFILE), KFILE)
bad("Kinder-Gator", "cut in a line", cut(GATOR, 0.7, KFILE), "Jump")
bad("Kinder-Gator", "a column that is missing", gator(cell(0, 11, "HeadW")), KFILE, "HeadY")
bad("Kinder-Gator", "a column twice", gator(cell(0, 11, "HeadX")), KFILE, "Head")
bad("Kinder-Gator", "a word for a number", gator(cell(3, 11, "left")), KFILE, "frame 2", "left")
bad("Kinder-Gator", "nan", gator(cell(3, 11, "nan")), "Jump", "frame 2", "nan")
bad("Kinder-Gator", "inf", gator(cell(3, 11, "inf")), "Jump", "frame 2", "inf")
bad("Kinder-Gator", "a number of 400 digits", gator(cell(3, 11, "9" * 400)), "Jump")
bad(
    "Kinder-Gator",
    "a line that is too short",
    gator(lambda s: s.replace("\n", "\n1,2\n", 1)),
    "Jump",
)
bad(
    "Kinder-Gator",
    "numbers that are shifted by a field",
    gator(lambda s: s.replace("\n367", "\n7,367")),
    KFILE,
)
bad("Kinder-Gator", "another person inside", gator(cell(2, 61, "343")), KFILE, "343")
bad("Kinder-Gator", "another motion inside", gator(cell(2, 62, "Bow")), KFILE, "Bow")
bad(
    "Kinder-Gator",
    "a motion that there is none",
    gator(names={**GATOR_NAMES, "POSE-p342_22-Sleep-1469182750416": (342, "Sleep")}),
    "Sleep",
)
bad(
    "Kinder-Gator",
    "a person who is none",
    gator(names={**GATOR_NAMES, "POSE-p1_22-Jump-1469182750416": (1, "Jump")}),
    "p1_22",
)
bad(
    "Kinder-Gator",
    "a motion twice",
    gator(names={**GATOR_NAMES, "POSE-p342_22-Jump-1469182750417": (342, "Jump")}),
    "Jump",
)
bad("Kinder-Gator", "UTF-16", unicode16(GATOR, KFILE), KFILE)
bad("Kinder-Gator", "bytes of nothing", instead(GATOR, bytes(5000), KFILE), KFILE)
bad("Kinder-Gator", "a device", device(GATOR, KFILE), KFILE)
bad("Kinder-Gator", "a pipe", fifo(GATOR, KFILE), KFILE)
fine("Kinder-Gator", "CRLF", gator(line="\r\n"), GATOR)
fine(
    "Kinder-Gator",
    "a byte order mark",
    lambda f: put((d := GATOR(f)) / KFILE, b"\xef\xbb\xbf" + (d / KFILE).read_bytes()) and d,
    GATOR,
)
fine("Kinder-Gator", "a folder that holds itself", loop(GATOR), GATOR)


# ---- archives that are unpacked

GOOD_ZIP = [
    ("set-1/data/a.json", b"{}" * 400),
    ("set-1/data/b.json", b"[]" * 400),
    ("set-1/LICENSE", b"free"),
]


def archive(more=(), deflate=True):
    return lambda f: pack(f / "set.zip", [*GOOD_ZIP, *more], deflate)


def entry(name: str, mode: int, data: bytes):
    "An archive with an entry that says what kind of file it is."

    def write(folder):
        with zipfile.ZipFile(folder / "set.zip", "w") as z:
            (info := zipfile.ZipInfo(name)).external_attr = mode << 16
            z.writestr(info, data)
        return folder / "set.zip"

    return write


def spoil(path: Path) -> Path:
    "The first member's deflated bytes made senseless."
    data = bytearray(path.read_bytes())
    at = data.index(b"a.json") + 6 + 20  # behind its name and the field for large sizes
    data[at : at + 6] = b"\xff" * 6
    return put(path, bytes(data))


for name, inner in (
    ("leads outside", "set-1/../../canary"),
    ("leads outside from its top", "../canary"),
    ("leads outside by backslashes", "set-1\\..\\..\\canary"),
    ("is absolute", "/canary"),
    ("is on a drive", "C:\\canary"),
):
    bad(
        "archive",
        f"a name that {name}",
        archive([(inner, b"x")]),
        "set.zip",
        "outside",
        opens="unpack",
    )
bad(
    "archive",
    "a link",
    entry("set-1/data/link", 0o120777, b"/etc"),
    "set.zip",
    "link",
    opens="unpack",
)
bad(
    "archive",
    "a bomb",
    lambda f: pack(f / "set.zip", [("set-1/data/zeros", 512 * 2**20)], True),
    "set.zip",
    "512 MiB",
    opens="unpack",
)
bad(
    "archive",
    "nothing below its folder",
    lambda f: pack(f / "set.zip", [("set-1/LICENSE", b"free")]),
    "set.zip",
    "no file below data",
    opens="unpack",
)
for share in (0.0, 0.5, 0.95):
    bad("archive", f"cut at {share}", cut(archive(), share), "set.zip", opens="unpack")
bad(
    "archive",
    "a damaged member",
    lambda f: spoil(archive()(f)),
    "set.zip",
    "damaged",
    opens="unpack",
)
bad(
    "archive",
    "a password",
    lambda f: change_central(archive()(f), b"set-1/data/b.json", 8, "<H", 1),
    "set.zip",
    opens="unpack",
)
bad(
    "archive",
    "no archive",
    lambda f: put(f / "set.zip", "<html>not found</html>"),
    "set.zip",
    opens="unpack",
)
bad("archive", "a pipe", fifo(archive()), "set.zip", opens="unpack")


# ---- a skeleton in JSON


def skeleton_json(raw=None, **changes):
    def write(folder):
        fields = {"name": "stick", **STICK, "center": 0} | changes
        return put(
            folder / "stick.json",
            (
                raw
                if raw is not None
                else json.dumps({k: v for k, v in fields.items() if v is not None})
            ),
        )

    return write


def wrong_skeleton(name, write, *says):
    bad("skeleton JSON", name, write, "stick.json", *says, error="ValueError", opens="skeleton")


wrong_skeleton("cut", cut(skeleton_json(), 0.6))
wrong_skeleton("empty file", skeleton_json(b""))
wrong_skeleton("nested deeply", skeleton_json(DEEP_JSON))
wrong_skeleton("UTF-16", unicode16(skeleton_json()))
wrong_skeleton("a list", skeleton_json(b"[1, 2]"))
wrong_skeleton("no joints", skeleton_json(joints=None), "joints")
wrong_skeleton("a field that is unknown", skeleton_json(bones=[[0, 1]]), "'bones'")
wrong_skeleton("a joint twice", skeleton_json(joints=["hip", "hip", "head"]), "'hip'")
wrong_skeleton("an edge outside", skeleton_json(edges=[[0, 1], [1, 3]]), "(1, 3)")
wrong_skeleton("an edge to itself", skeleton_json(edges=[[0, 1], [2, 2]]), "(2, 2)")
wrong_skeleton("an edge of three", skeleton_json(edges=[[0, 1, 2]]), "edges")
wrong_skeleton("an edge of huge numbers", skeleton_json(edges=[[0, 10**400]]))
wrong_skeleton(
    "a number of 5000 digits",
    skeleton_json(b'{"name": "s", "joints": ["a"], "edges": [], "center": ' + b"9" * 5000 + b"}"),
)
wrong_skeleton("a center outside", skeleton_json(center=3), "center 3")
wrong_skeleton("a center of text", skeleton_json(center="hip"), "center")
wrong_skeleton("a split that is unknown", skeleton_json(partition="left"), "'left'")
wrong_skeleton("a split of an odd type", skeleton_json(partition=["spatial"]), "partition")
wrong_skeleton("a number of bones below 0", skeleton_json(max_hop=-1), "max_hop")
wrong_skeleton("a pipe", fifo(skeleton_json()))
wrong_skeleton("a device", device(skeleton_json()))
wrong_skeleton("a folder", lambda f: (f / "stick.json").mkdir() or f / "stick.json")
wrong_skeleton("no such file", lambda f: f / "stick.json")


# ---- weights of published codes


def torch_file(value, **options):
    "A writer of what torch.save makes of a value."

    def write(folder):
        import torch

        torch.save(value(torch) if callable(value) else value, folder / "weights.pt", **options)
        return folder / "weights.pt"

    return write


def safetensors_file(header, body=b"\0" * 64, length=None):
    "A .safetensors with any header."
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda f: put(
        f / "weights.safetensors",
        struct.pack("<Q", len(text) if length is None else length) + text + body,
    )


def tensor(**changes):
    return {"fc.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | changes}


def wrong_weights(name, write, *says):
    bad("weights", name, write, "weights", *says, error="ValueError", opens="weights")


def STATE(torch):
    return {"fc.weight": torch.zeros(5, 256, 1, 1), "fc.bias": torch.zeros(5)}


for name, trap in TRAPS.items():
    wrong_weights(
        f"a pickle that calls {name}",
        lambda f, trap=trap: put(f / "weights.pkl", pickle.dumps({"fc.weight": trap()}, 2)),
        "run code",
    )
for name, trap in TRAPS.items():
    wrong_weights(
        f"a saved state that calls {name}",
        torch_file(lambda torch, trap=trap: {**STATE(torch), "epoch": trap()}),
        "run code",
    )
wrong_weights(
    "the old form with code",
    torch_file(
        lambda torch: {**STATE(torch), "epoch": TRAPS["os.system"]()},
        _use_new_zipfile_serialization=False,
    ),
    "run code",
)
wrong_weights("a bare INST pickle", lambda f: put(f / "weights.pth", text_trap()))
for name, data in claimed_pickles().items():
    wrong_weights(f"a pickle that claims {name}", lambda f, data=data: put(f / "weights.pt", data))
wrong_weights("a whole network", torch_file(lambda torch: torch.nn.Linear(2, 2)), "state_dict")
for share in (0.0, 0.5, 0.99):
    wrong_weights(f"cut at {share}", cut(torch_file(STATE), share))
wrong_weights("no tensor", torch_file({"epoch": 3}), "state dict")
wrong_weights(
    "another network",
    torch_file(lambda torch: {"stem.weight": torch.zeros(3)}),
    "classifier",
    "stem.weight",
)
wrong_weights("too few tensors", torch_file(STATE), "st_gcn")
wrong_weights("text", lambda f: put(f / "weights.pt", "404: not found\n"))
wrong_weights("no such file", lambda f: f / "weights.pt", "no such")
wrong_weights("a folder", lambda f: (f / "weights.pt").mkdir() or f / "weights.pt")
wrong_weights("a pipe", fifo(torch_file(STATE)))
wrong_weights("safetensors cut", cut(safetensors_file(tensor()), 0.7))
wrong_weights("safetensors with a header of 10 GB", safetensors_file(tensor(), length=10**10))
wrong_weights("safetensors with a header of 2^63", safetensors_file(tensor(), length=2**63))
wrong_weights(
    "safetensors with a tensor of 10 GB",
    safetensors_file(tensor(shape=[2500000000], data_offsets=[0, 10**10])),
)
wrong_weights(
    "safetensors with a tensor of 2^62 numbers", safetensors_file(tensor(shape=[2**31, 2**31]))
)
wrong_weights(
    "safetensors with a tensor behind the end", safetensors_file(tensor(data_offsets=[64, 128]))
)
wrong_weights("safetensors with an unknown type", safetensors_file(tensor(dtype="O8")))
wrong_weights("safetensors with a header nested deeply", safetensors_file(DEEP_JSON))
wrong_weights("safetensors with a header that is no JSON", safetensors_file(b"{" * 64))


# ---- the folder of a finished run


def run_spec(**changes):
    from mdr_repro.training.run_spec import RunSpec, Schedule

    return RunSpec(
        **{
            "data": "synthetic:num_clips=8,num_classes=2",
            "data_checksum": "0" * 64,
            "schedule": Schedule(epochs=1, batch_size=2),
            "backbone": "st_gcn",
            "backbone_options": {"width": 0.0625},
            "objective": "softmax",
        }
        | changes
    )


def run_folder(weights=None, result=None, files=None, **others):
    """A writer of a run's folder; its checksums are right whatever its files hold, as those of a
    liar would be."""
    from hashlib import sha256

    def write(folder):
        from dataclasses import asdict

        from safetensors.torch import save

        from mdr_repro.skeleton import get_skeleton
        from mdr_repro.training.trainer import build_recognizer

        folder = folder / "run"
        body = get_skeleton("coco17")
        net = build_recognizer(run_spec(), body, 3, 1, 2)
        state = {k: v.contiguous() for k, v in net.state_dict().items()}
        held = {
            "spec.json": run_spec().canonical().encode(),
            "metrics.jsonl": b"{}\n",
            "scores.npz": b"",
            "model.safetensors": save(state),
        }
        if weights is not None:
            held["model.safetensors"] = weights(state) if callable(weights) else weights
        held |= {name.replace("__", "."): data for name, data in others.items()}
        for name, data in held.items():
            put(folder / name, data)
        said = {
            "id": run_spec().id,
            "format": 1,
            "skeleton": asdict(body),
            "in_channels": 3,
            "num_persons": 1,
            "class_names": ["a", "b"],
            "seconds": 1.0,
            "files": (
                {name: sha256(data).hexdigest() for name, data in held.items()} | (files or {})
            ),
        }
        put(
            folder / "result.json",
            (
                result(said)
                if callable(result)
                else result
                if result is not None
                else json.dumps(said)
            ),
        )
        return folder

    return write


def wrong_run(name, write, *says):
    bad("run folder", name, write, *says, error="StoreError", opens="run")


def said(**changes):
    return lambda r: json.dumps(r | changes)


wrong_run("weights of text", run_folder(b"no weights"), "model.safetensors")
wrong_run("weights of no byte", run_folder(b""), "model.safetensors")
wrong_run(
    "weights with a header of 10 GB",
    run_folder(struct.pack("<Q", 10**10) + b"{}"),
    "model.safetensors",
)
wrong_run(
    "weights that are a pickle with code",
    run_folder(lambda _: pickle.dumps(TRAPS["os.system"]())),
    "model.safetensors",
)
wrong_run(
    "weights of another network",
    run_folder(
        lambda _: struct.pack("<Q", len(h := json.dumps(tensor()).encode())) + h + bytes(64)
    ),
    "model.safetensors",
)
wrong_run(
    "weights changed afterwards",
    instead(run_folder(), b"changed", "model.safetensors"),
    "model.safetensors",
    "not as it was written",
)
wrong_run(
    "weights that are missing",
    lambda f: (p := run_folder()(f), (p / "model.safetensors").unlink())[0],
    "model.safetensors",
    "missing",
)
wrong_run("weights that are a pipe", fifo(run_folder(), "model.safetensors"), "model.safetensors")
wrong_run("a result cut", cut(run_folder(), 0.5, "result.json"), "result.json")
wrong_run("a result nested deeply", run_folder(result=DEEP_JSON), "result.json")
wrong_run("a result in UTF-16", unicode16(run_folder(), "result.json"), "result.json")
wrong_run("a result of a list", run_folder(result=b"[]"), "result.json")
wrong_run(
    "a result of another run",
    run_folder(result=said(id="0" * 12)),
    "result.json",
    "not the result of run",
)
wrong_run(
    "a result without a skeleton",
    run_folder(result=lambda r: json.dumps({k: v for k, v in r.items() if k != "skeleton"})),
    "result.json",
)
wrong_run(
    "a skeleton that is none",
    run_folder(result=said(skeleton={"name": "s", "joints": [], "edges": [], "center": 0})),
    "result.json",
)
wrong_run(
    "files outside the folder",
    run_folder(files={"../../../../../../../../etc/hostname": "0"}),
    "hostname",
)
wrong_run("files that are a device", run_folder(files={"/dev/zero": "0"}), "/dev/zero")
wrong_run(
    "another spec",
    instead(run_folder(), lambda: run_spec(seed=1).canonical(), "spec.json"),
    "spec.json",
)
wrong_run("a newer version", run_folder(result=said(format=99)), "result.json", "99")


# ---- runs a line, for `work --runs`


def spec_lines(*changes, raw=None, alone=False):
    "A good spec, and one with changes, a line each; or the one alone."

    def write(folder):
        value = json.loads(run_spec().canonical())
        for change in changes:
            change(value)
        good = "" if alone else run_spec().canonical() + "\n"
        return put(
            folder / "runs.jsonl", raw if raw is not None else good + json.dumps(value) + "\n"
        )

    return write


def setting(path, value):
    def change(spec):
        *parts, last = path.split(".")
        for p in parts:
            spec = spec[p]
        if value is None:
            del spec[last]
        else:
            spec[last] = value

    return change


def right(spec):
    "The checksum of the synthetic clips, where it is asked for."
    from mdr_repro.clips.sources import source_checksum

    if spec["data_checksum"] == "right":
        spec["data_checksum"] = source_checksum(spec["data"])


def wrong_spec(name, write, *says):
    bad("run list", name, write, *says, error="status 2", opens="work")


wrong_spec("cut in a line", cut(spec_lines(), 0.8), "line 2")
wrong_spec("text", spec_lines(raw=b"table_05 seed 0\n"), "line 1")
wrong_spec("a list", spec_lines(raw=b"[1, 2]\n"), "line 1")
wrong_spec("nested deeply", spec_lines(raw=DEEP_JSON), "line 1")
wrong_spec("UTF-16", unicode16(spec_lines()), "runs.jsonl")
wrong_spec("a field that is unknown", spec_lines(setting("colour", "red")), "line 2", "'colour'")
wrong_spec("a field that is missing", spec_lines(setting("data", None)), "line 2", "'data'")
wrong_spec(
    "words for a number",
    spec_lines(setting("schedule.epochs", "three")),
    "line 2",
    "epochs",
    "'three'",
)
wrong_spec("half an epoch", spec_lines(setting("schedule.epochs", 0.5)), "line 2", "epochs")
wrong_spec("infinite rate", reworded(spec_lines(), b'"lr":0.1', b'"lr":1e999'), "line 1", "lr")
wrong_spec("nan", reworded(spec_lines(), b'"noise":0.0', b'"noise":NaN'), "line 1", "noise")
wrong_spec("a rate of 400 digits", spec_lines(setting("noise", 10**400)), "line 2", "noise")
wrong_spec(
    "a number of 5000 digits",
    reworded(spec_lines(), b'"seed":0', b'"seed":' + b"9" * 5000),
    "line 1",
)
wrong_spec("a seed beyond all", spec_lines(setting("seed", 2**70)), "line 2", "seed")
wrong_spec("a seed below 0", spec_lines(setting("seed", -1)), "line 2", "seed")
wrong_spec(
    "options nested deeply",
    reworded(
        spec_lines(),
        b'"objective_options":{}',
        b'"objective_options":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ),
    "line 1",
)
wrong_spec("a pipe", fifo(spec_lines()), "runs.jsonl")
wrong_spec("a device", device(spec_lines()), "runs.jsonl")
wrong_spec("no such file", lambda f: f / "runs.jsonl", "runs.jsonl")
for name, changes, fragment in (
    ("data that leads outside", {"data": "../../../../../../../../etc/passwd"}, "etc/passwd"),
    ("data that are a device", {"data": "/dev/zero"}, "/dev/zero"),
    ("data that are not there", {"data": "nowhere.npz"}, "nowhere.npz"),
    (
        "data with shell signs",
        {"data": "$(touch canary);`touch canary`|touch canary"},
        "touch canary",
    ),
    (
        "a backbone of code",
        {"backbone": "__import__('os').system('touch canary')", "data_checksum": "right"},
        "unknown backbone",
    ),
    (
        "an option that is unknown",
        {"backbone_options": {"colour": 1}, "data_checksum": "right"},
        "colour",
    ),
):
    bad(
        "run list",
        name,
        spec_lines(*(setting(k, v) for k, v in changes.items()), right, alone=True),
        fragment,
        error="status 1",
        opens="work",
    )


# ---- clips of one's own skeleton: an .npz and a JSON beside it


def custom_arrays() -> dict:
    return {
        "keypoints": numbers(12, 3, 3),
        "lengths": np.array(T),
        "label": np.array([0, 1, 0, 1]),
        "split": np.array([0, 0, 1, 1]),
        "name": np.array(list("abcd")),
        "class_names": np.array(["turn", "jump"]),
    }


def custom(skeleton=None, **changes):
    "A writer of both files; `skeleton` are other bytes of the JSON, or empty for none."

    def write(folder):
        path = npz(custom_arrays, **changes)(folder)
        fields = json.dumps({"name": "stick", **STICK, "center": 0})
        if skeleton != b"":
            put(folder / "skeleton.json", fields if skeleton is None else skeleton)
        return path

    return write


CUSTOM = custom()
for share in (0.05, 0.5, 0.97):
    bad("own skeleton", f"cut at {share}", cut(CUSTOM, share), "cut off or damaged")
bad("own skeleton", "no skeleton", custom(b""), "skeleton.json")
bad("own skeleton", "a skeleton cut", custom(b'{"name": "stick", "joi'), "skeleton.json")
bad("own skeleton", "a skeleton nested deeply", custom(DEEP_JSON), "skeleton.json")
bad(
    "own skeleton",
    "a skeleton in UTF-16",
    custom('{"name": "stick"}'.encode("utf-16")),
    "skeleton.json",
)
bad(
    "own skeleton",
    "a skeleton of another size",
    custom(b'{"name": "s", "joints": ["a", "b"], "edges": [[0, 1]], "center": 0}'),
    "'keypoints'",
    "3",
    "2",
)
bad(
    "own skeleton",
    "an edge outside",
    custom(b'{"name": "s", "joints": ["a", "b", "c"], "edges": [[0, 1], [1, 5]], "center": 0}'),
    "skeleton.json",
    "(1, 5)",
)
bad(
    "own skeleton",
    "a pipe for a skeleton",
    lambda f: (CUSTOM(f), (f / "skeleton.json").unlink(), os.mkfifo(f / "skeleton.json"))[0],
    "skeleton.json",
)
bad(
    "own skeleton",
    "a device for a skeleton",
    lambda f: (
        CUSTOM(f),
        (f / "skeleton.json").unlink(),
        (f / "skeleton.json").symlink_to("/dev/zero"),
    )[0],
    "skeleton.json",
)
bad("own skeleton", "too few frames", custom(lengths=np.array([2, 5, 1, 9])), "17", "12")
bad(
    "own skeleton",
    "a clip of no frame",
    custom(lengths=np.array([2, 6, 0, 4])),
    "clip 2",
    "0 frames",
)
bad("own skeleton", "a length below 0", custom(lengths=np.array([2, 6, -1, 5])), "clip 2", "-1")
bad(
    "own skeleton",
    "lengths that wrap around",
    custom(lengths=np.array([2**62, 2**62, 2**62, 2**62 + 12])),
    "clip 0",
)
bad(
    "own skeleton",
    "lengths and offsets",
    custom(offsets=np.array([0, 2, 7, 8, 12])),
    "'lengths' and 'offsets'",
)
bad("own skeleton", "neither lengths nor offsets", custom(lengths=None), "lengths")
bad("own skeleton", "labels too few", custom(label=np.array([0, 1])), "'label' has 2 entries")
bad("own skeleton", "a label that no class has", custom(label=np.array([0, 1, 2, 1])), "label 2")
bad(
    "own skeleton",
    "a gap in the labels",
    custom(label=np.array([0, 2, 0, 2]), class_names=None),
    "'label'",
    "class 1",
)
bad(
    "own skeleton",
    "a word that is no class",
    custom(label=np.array(["turn", "jmup", "turn", "jump"])),
    "clip 1",
    "'jmup'",
)
bad("own skeleton", "a name twice", custom(name=np.array(list("abca"))), "'a'", "twice")
bad(
    "own skeleton",
    "a split that is none",
    custom(split=np.array(["train", "tset", "test", "test"])),
    "clip 1 ('b')",
    "'tset'",
)
bad(
    "own skeleton", "four numbers a joint", custom(keypoints=numbers(12, 3, 4)), "4 numbers a joint"
)
bad(
    "own skeleton",
    "coordinates that do not fit",
    custom(coordinates=np.array("xy")),
    "'coordinates' is 'xy'",
)
bad(
    "own skeleton",
    "nan",
    custom(keypoints=at((4, 1, 2), np.nan)),
    "clip 'b'",
    "frame 2",
    "joint 1 (spine)",
    "z is nan",
)
bad("own skeleton", "text for numbers", custom(keypoints=lambda a: a.astype(str)), "numbers")
bad("own skeleton", "one axis", custom(keypoints=np.zeros(12)), "'keypoints' has shape [12]")
bad(
    "own skeleton",
    "an array of objects with code",
    custom(name=np.array([TRAPS["os.system"]()] * 4, object)),
    "array 'name' holds pickled Python objects",
)
bad("own skeleton", "an object of a text", custom(keypoints=np.array("abc")), "'keypoints'")
fine(
    "own skeleton",
    "offsets for lengths",
    custom(lengths=None, offsets=np.array([0, 2, 7, 8, 12])),
    CUSTOM,
)
fine(
    "own skeleton",
    "words for labels",
    custom(
        label=np.array(["turn", "jump", "turn", "jump"]),
        split=np.array(["train", "train", "test", "test"]),
    ),
    CUSTOM,
)
fine("own skeleton", "one person, said so", custom(keypoints=lambda a: a[:, None]), CUSTOM)
fine(
    "own skeleton",
    "a byte order mark",
    custom(b"\xef\xbb\xbf" + json.dumps({"name": "stick", **STICK, "center": 0}).encode()),
    CUSTOM,
)


# ---- Penn Action and UTD-MHAD: folders of MATLAB files


def saved(path, content, packed=True):
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, content, do_compression=packed)
    return put(path, file.getvalue())


def penn_file(k=0, frames=6, **changes):
    x, y = (numbers(frames, 13, seed=2 * k + i) * 20 + 200 for i in (0, 1))
    return {
        "action": ("bowl", "squat")[k % 2],
        "pose": "left",
        "x": x,
        "y": y,
        "visibility": (numbers(frames, 13, seed=k) > 0).astype(np.uint8),
        "train": np.int32([[1 - 2 * (k > 2)]]),
        "bbox": np.zeros((frames, 4)),
        "dimensions": np.float64([[360, 480, frames]]),
        "nframes": np.uint8([[frames]]),
    } | changes


def penn(packed=True, **changes):
    "A writer of five clips; `changes` are of the first one's variables, None leaves one out."

    def write(folder):
        for k in range(5):
            saved(
                folder / "penn" / f"{k + 1:04}.mat",
                {
                    n: v
                    for n, v in penn_file(k, **(changes if k == 0 else {})).items()
                    if v is not None
                },
                packed,
            )
        return folder / "penn"

    return write


def utd(value=None, name="a1_s1_t1", packed=True):
    "A writer of five clips; `value` stands in place of the first one's joints."

    def write(folder):
        for k, n in enumerate((name, "a1_s2_t1", "a2_s1_t1", "a2_s2_t1", "a2_s2_t2")):
            saved(
                folder / "utd" / f"{n}_skeleton.mat",
                {"d_skel": numbers(20, 3, 5 + k, seed=k) if k or value is None else value},
                packed,
            )
        return folder / "utd"

    return write


PENN, UTD, MFILE, UFILE = penn(), utd(), "0001.mat", "a1_s1_t1_skeleton.mat"
CELLS = np.array([1, "touch canary"], object)
for form, good, file in (("Penn Action", PENN, MFILE), ("UTD-MHAD", UTD, UFILE)):
    for share in (0.0, 0.3, 0.98):
        bad(form, f"cut at {share}", cut(good, share, file), file)
    bad(form, "bytes of nothing", instead(good, bytes(5000), file), file, "no MATLAB 5 file")
    bad(
        form,
        "a file of MATLAB 7.3",
        instead(
            good,
            b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(600),
            file,
        ),
        file,
        "-v7",
    )
    bad(
        form,
        "a pickle",
        instead(good, pickle.dumps(TRAPS["os.system"](), 2), file),
        file,
        "no MATLAB 5 file",
    )
    bad(form, "a device", device(good, file), file)
    bad(form, "a pipe", fifo(good, file), file)
    fine(form, "a folder that holds itself", loop(good), good)
for name, value, part in (
    ("cells", CELLS, "plain array"),
    ("a struct", {"a": 1}, "plain array"),
    ("complex numbers", np.ones((6, 13)) * 1j, "plain array"),
    ("text", "abc", "13 joints"),
    ("a bomb", np.zeros(2**23 + 99), "64 MiB"),
    ("12 joints", np.zeros((6, 12)), "13 joints"),
    ("three axes", np.zeros((6, 13, 2)), "13 joints"),
    ("too few frames", np.zeros((5, 13)), "x has 5"),
    ("no x", None, "holds no x"),
    ("nan", np.full((6, 13), np.nan), "nan"),
    ("inf", np.full((6, 13), np.inf), "inf"),
    ("beyond float32", np.full((6, 13), 1e300), "e+"),
):
    bad("Penn Action", f"{name} in x", penn(x=value), "0001", part)
for name, changes, part in (
    ("an action that there is none", {"action": "swim"}, "swim"),
    ("a side that there is none", {"pose": "above"}, "above"),
    ("a split that is none", {"train": np.int32([[0]])}, "train is 0"),
    ("two splits", {"train": np.int32([[1, -1]])}, "train"),
    ("a picture of no size", {"dimensions": np.zeros((1, 3))}, "dimensions"),
    ("a size that is no number", {"dimensions": np.full((1, 3), np.nan)}, "dimensions"),
    ("a number for a word", {"action": 7}, "action"),
    ("visibility of 2", {"visibility": np.full((6, 13), 2)}, "visibility"),
    (
        "no frame",
        {k: np.zeros((0, 13)) for k in ("x", "y", "visibility")} | {"nframes": 0},
        "no frame",
    ),
):
    bad("Penn Action", name, penn(**changes), "0001", part)
for name, value, part in (
    ("cells", CELLS, "plain array"),
    ("a struct", {"a": 1}, "plain array"),
    ("complex numbers", np.ones((20, 3, 4)) * 1j, "plain array"),
    ("text", "abc", "20 joints"),
    ("a bomb", np.zeros(2**23 + 99), "64 MiB"),
    ("19 joints", np.zeros((19, 3, 4)), "20 joints"),
    ("two axes", np.zeros((20, 3)), "20 joints"),
    ("no frame", np.zeros((20, 3, 0)), "no frame"),
    ("nan", np.full((20, 3, 4), np.nan), "nan"),
    ("beyond float32", np.full((20, 3, 4), 1e300), "e+"),
):
    bad(
        "UTD-MHAD",
        name,
        utd(value),
        "a1_s1_t1" if "plain" in part or "joints" in part or "MiB" in part else "a01_s1_t1",
        part,
    )
bad("UTD-MHAD", "an action that there is none", utd(name="a28_s1_t1"), "a28_s1_t1", "action 28")
bad("UTD-MHAD", "a person who is none", utd(name="a1_s9_t1"), "a1_s9_t1", "subject 9")
bad("UTD-MHAD", "a clip twice", utd(name="a01_s2_t1"), "a01_s2_t1", "twice")
fine("Penn Action", "unpacked variables", penn(packed=False), PENN)
fine("UTD-MHAD", "unpacked variables", utd(packed=False), UTD)
fine(
    "UTD-MHAD",
    "a depth film among them",
    lambda f: saved((d := UTD(f)) / "a1_s1_t1_depth.mat", {"d_depth": np.zeros((2, 2))}) and d,
    UTD,
)


# ---- the process that opens them


def open_clips(path):
    from mdr_repro.clips.clip_set import ClipSet

    return ClipSet.load(path).checksum()


def open_archive(path):
    from mdr_repro.readers.conversion import unpack

    unpack(path, path.parent.parent / "stand" / "set", "data")


def open_skeleton(path):
    from mdr_repro.skeleton import Skeleton

    return Skeleton.from_json(path)


def open_weights(path):
    from mdr_repro.models.published_weights import load_released
    from mdr_repro.skeleton import get_skeleton

    return load_released(path, "st_gcn", get_skeleton("coco17"))


def open_run(path):
    from mdr_repro.training.run_store import read_record

    return read_record(run_spec(), path).model()


def open_work(path):
    "As the command line does it; its line of error is raised."
    from contextlib import redirect_stderr, redirect_stdout

    from mdr_repro.use.command_line import main

    Path("settings.ini").touch()
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        status = main(["work", "--runs", str(path), "--results-root", "results"])
    failed = [line for line in out.getvalue().splitlines() if line.startswith("FAILED")]
    if status:
        raise type(f"status {status}", (Exception,), {})(
            "\n".join([*failed, *err.getvalue().splitlines()])
        )


OPENERS = {
    "clips": open_clips,
    "unpack": open_archive,
    "skeleton": open_skeleton,
    "weights": open_weights,
    "run": open_run,
    "work": open_work,
}


def attempt(opens: str, path: Path, out: int) -> None:
    "In a child: open the input, tell what came of it and how much memory it took, and end."
    import resource

    with open("/proc/self/statm") as f:
        pages = [int(n) * resource.getpagesize() for n in f.read().split()]
    resource.setrlimit(resource.RLIMIT_AS, (pages[0] + 3 * GIB,) * 2)
    signal.alarm(10)
    try:
        said = {"error": "", "sentence": str(OPENERS[opens](path))}
    except BaseException as e:
        said = {
            "error": type(e).__name__,
            "sentence": str(e),
            "kinds": [k.__name__ for k in type(e).__mro__],
        }
    said["growth"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - pages[1]
    os.write(out, json.dumps(said).encode()[:60_000])
    os._exit(0)


def names(folder: Path) -> set[str]:
    return {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if "results/" not in p.as_posix()
    } - {"stand/settings.ini", "stand/results"}


def outcome(opens: str, write, folder: Path) -> dict:
    "What becomes of one input, opened in a child that stands in an empty folder."
    (inputs := folder / "input").mkdir(parents=True)
    os.chdir(inputs)
    path = write(inputs)
    (stand := folder / "stand").mkdir()
    os.chdir(stand)
    before, (ear, mouth) = names(folder), os.pipe()
    if not (child := os.fork()):
        attempt(opens, path, mouth)
    os.close(mouth)
    with open(ear, "rb") as f:
        text = f.read()
    _, status = os.waitpid(child, 0)
    said = json.loads(text) if text else {"error": "", "sentence": "", "growth": 0}
    return said | {
        "path": str(path),
        "killed": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "left": sorted(names(folder) - before),
    }


def warm(folder: Path) -> None:
    "Import, and open one good input of each form, so that a child's memory is that of its input."
    import_module("mdr_repro.use.command_line")
    (folder / "run").mkdir()
    open_run(run_folder()(folder / "run"))
    for k, (_, good) in enumerate(HARMLESS.values()):
        (place := folder / f"warm{k}").mkdir()
        open_clips(good(place))


def main(folder: str, *words: str) -> None:
    folder = Path(folder)
    warm(folder)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for k, (name, case) in enumerate(CASES.items()):
            if not words or any(w in name for w in words):
                print(
                    json.dumps(
                        {"name": name, **outcome(case.opens, case.write, Path(work) / f"{k}")}
                    ),
                    flush=True,
                )
        for k, (name, writers) in enumerate(HARMLESS.items()):
            if words and not any(w in name for w in words):
                continue
            for which, write in zip(("odd", "plain"), writers):
                print(
                    json.dumps(
                        {
                            "name": f"{name} ({which})",
                            **outcome("clips", write, Path(work) / f"{which}{k}"),
                        }
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
