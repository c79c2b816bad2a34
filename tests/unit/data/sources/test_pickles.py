import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eegdecode.data.sources import SourceError
from eegdecode.data.sources.pickles import load_npy, load_pickle, load_torch
from eegdecode.data.sources.unpickle import MAPPED_FROM_BYTES

RNG = np.random.default_rng(0)
CONTENT: dict[str, Any] = {
    "eeg": RNG.standard_normal((3, 4, 5)),
    "half": RNG.standard_normal((7, 2)).astype(np.float16),
    "fortran": np.asfortranarray(RNG.standard_normal((4, 3))),
    "swapped": np.arange(5, dtype=">i4"),
    "strided": np.arange(24).reshape(2, 3, 4)[:, [2, 0]],
    "empty": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
    "names": np.array([["aardvark_01b.jpg"], ["ö.jpg"]]),
    "files": ["a", "b", "ö" * 300],
    "objects": np.array([["a", 1], [None, (1, 2)]], dtype=object),
    "text": "µV",
    "bytes": b"\x00\xff",
    "numbers": [0, 255, 65535, -1, 2**40, 10**30, 1.5, None, True],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "set": {1, 2},
    "ordered": OrderedDict(b=1, a=2),
    "scalar": np.float32(2.5),
    "word": np.str_("Oz"),
    "again": None,
}
CONTENT["again"] = CONTENT["eeg"]


class Attack:
    """Makes the folder that a test then looks for."""

    def __init__(self, call: Callable[..., Any], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call, self.arguments


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_gives_what_was_saved(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "eeg.npy"
    path.write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    loaded = load_pickle(path)
    # An OrderedDict comes as a dict, which keeps its order too.
    assert same(loaded, {**CONTENT, "ordered": dict(CONTENT["ordered"])})
    assert loaded["again"] is loaded["eeg"]


def test_a_saved_dictionary_gives_the_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "raw_eeg_training.npy"
    np.save(path, CONTENT)  # type: ignore[arg-type]
    assert same(load_pickle(path)["eeg"], CONTENT["eeg"])
    several = np.array([{"a": 1}, None], dtype=object)
    np.save(path, several, allow_pickle=True)
    assert load_pickle(path).tolist() == [{"a": 1}, None]


def test_the_old_spelling_of_numpy_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.npy"
    content = pickle.dumps(CONTENT["eeg"], protocol=3)
    assert content.count(b"numpy._core.multiarray") == 1
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert same(load_pickle(path), CONTENT["eeg"])


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_large_arrays_stay_in_the_file(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "eeg.npy"
    eeg = np.arange(MAPPED_FROM_BYTES, dtype=np.float64)
    path.write_bytes(pickle.dumps({"eeg": eeg}, protocol=protocol))
    mapped = load_pickle(path)["eeg"]
    np.testing.assert_array_equal(mapped, eeg)
    assert not mapped.flags.writeable
    assert not mapped.flags.owndata
    # What is written to the file afterwards is seen: the values were never copied.
    content = path.read_bytes()
    at = content.index(struct.pack("<d", 12345.0))
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(struct.pack("<d", -1.0))
    assert mapped[12345] == -1.0


def test_a_torch_archive_gives_arrays(tmp_path: Path) -> None:
    path = tmp_path / "train.pt"
    base = torch.arange(40, dtype=torch.float16).reshape(5, 8)
    content = {"eeg": base[1:, ::2].T, "label": torch.tensor([3, 1]), "img": CONTENT["names"], "times": CONTENT["eeg"]}
    for protocol in (2, 5):
        torch.save(content, path, pickle_protocol=protocol)
        loaded = load_pickle(path)
        assert same(loaded["eeg"], content["eeg"].numpy())  # type: ignore[union-attr]
        assert same(loaded["label"], np.array([3, 1]))
        assert same(loaded["img"], CONTENT["names"])
        assert same(loaded["times"], CONTENT["eeg"])
    assert not loaded["eeg"].flags.writeable


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("call", "named"),
    [(os.system, "posix.system"), (os.mkdir, "posix.mkdir"), (eval, "eval"), (getattr, "getattr"), (np.load, "numpy")],
)
def test_a_call_is_refused_by_name_and_not_run(tmp_path: Path, protocol: int, call: Any, named: str) -> None:
    marker = tmp_path / "ran"
    arguments: tuple[str, ...] = {
        os.system: (f"mkdir {marker}",),
        os.mkdir: (str(marker),),
        eval: (f"__import__('os').mkdir({str(marker)!r})",),
        getattr: ("x", "upper"),
        np.load: (str(marker),),
    }[call]
    attack = Attack(call, *arguments)
    nested = np.empty(2, dtype=object)
    nested[1] = {"deep": [attack]}
    for k, content in enumerate(
        (attack, {"raw_eeg_data": CONTENT["eeg"], "x": attack}, nested, [(nested, {1: nested})])
    ):
        plain, saved, archive = tmp_path / f"{k}.npy", tmp_path / f"{k}_saved.npy", tmp_path / f"{k}.pt"
        plain.write_bytes(pickle.dumps(content, protocol=protocol))
        wrapped = np.empty((), dtype=object)
        wrapped[()] = content
        np.save(saved, wrapped, allow_pickle=True)
        torch.save(content, archive, pickle_protocol=protocol)
        for path in (plain, saved, archive):
            with pytest.raises(SourceError, match=rf"{path.name}: refused, its pickle asks for '[^']*{named}") as error:
                load_pickle(path)
            assert "nothing was run" in str(error.value)
    assert not marker.exists()


def test_the_attack_would_have_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Attack(os.mkdir, str(tmp_path / "ran"))))
    assert (tmp_path / "ran").exists()


def op(*parts: bytes) -> bytes:
    return pickle.PROTO + b"\x02" + b"".join(parts) + pickle.STOP


def name(module: str, attribute: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        # Instructions that make an object of a class, or look up registered extensions, are not known at all.
        (op(pickle.MARK, pickle.INST, b"os\nsystem\n"), r"asks for 'instruction b'i''"),
        (op(pickle.EXT1, b"\x01"), r"asks for 'instruction b'\\x82''"),
        (op(name("numpy", "ndarray"), pickle.EMPTY_TUPLE, pickle.NEWOBJ), r"asks for 'instruction b'\\x81''"),
        (op(name("numpy", "ndarray"), pickle.EMPTY_TUPLE, pickle.REDUCE), "can not be called"),
        # A name with dots would reach into a module that is allowed.
        (pickle.PROTO + b"\x04\x8c\x05numpy\x8c\x0fcore.os.systemx\x93.", r"asks for 'numpy.core.os.systemx'"),
        (op(name("numpy.core.multiarray", "_reconstruct"), pickle.EMPTY_DICT, b"b"), "takes none"),
        (op(b"X\x01\x00\x00\x00a", pickle.BINPERSID), "asks for 'an object outside the pickle'"),
        (op(pickle.EMPTY_TUPLE, pickle.EMPTY_TUPLE, pickle.REDUCE), "can not be called"),
        (op(pickle.POP), "refused"),
        (op(), "invalid at byte"),
        (op(pickle.BINGET, b"\x07"), "invalid at byte"),
        (op(pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.NONE, pickle.SETITEM), "a key of type list"),
        (op(pickle.EMPTY_DICT, pickle.EMPTY_TUPLE, pickle.NONE, pickle.SETITEM), "a key of type tuple"),
        (op(name("numpy.core.multiarray", "_reconstruct"), pickle.EMPTY_TUPLE, b"R"), "without their content"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.", "it ends where 4611686018427387904 bytes must follow"),
        (b"\x80\x04\x96" + struct.pack("<Q", 2**40) + b"abc.", "it ends where 1099511627776 bytes must follow"),
    ],
)
def test_tricks_are_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "trick.npy"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=complaint):
        load_pickle(path)


class Described:
    """An array or dtype that says of itself what it likes."""

    def __init__(self, call: Callable[..., Any], arguments: tuple[Any, ...], state: Any) -> None:
        self.reduced = (call, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


RECONSTRUCT = np.zeros(1).__reduce__()[0]
FROMBUFFER = np.zeros(1).__reduce_ex__(5)[0]
SCALAR = np.float64(1).__reduce__()[0]  # type: ignore[index]
F8, OBJECT = np.dtype("f8"), np.dtype("O")


def array(state: tuple[Any, ...]) -> Described:
    return Described(RECONSTRUCT, (np.ndarray, (0,), b"b"), state)


def dtype(code: str, state: tuple[Any, ...]) -> Described:
    return Described(np.dtype, (code, False, True), state)


PLAIN = (3, "<", None, None, None, -1, -1, 0)


@pytest.mark.parametrize(
    ("trick", "complaint"),
    [
        # NumPy would take these bytes for the addresses of objects.
        (array((1, (1,), OBJECT, False, b"ABCDEFGH")), "objects that brings others"),
        (array((1, (1,), dtype("O8", PLAIN), False, b"ABCDEFGH")), "objects that brings others"),
        (array((1, (3,), OBJECT, False, [None])), "3 objects that brings others"),
        (array((1, (10**9, 10**9), F8, False, b"12345678")), r"\(1000000000, 1000000000\) float64 that brings another"),
        (array((1, (-1, -1), F8, False, b"12345678")), "without a valid shape"),
        (array((1, ("x",), F8, False, b"12345678")), "without a valid shape"),
        (array((1, (10**12,), dtype("U0", PLAIN), False, b"")), "invalid"),
        (array((1, (1,), dtype("V8", PLAIN), False, b"12345678")), "no plain number or string"),
        (
            array((1, (1,), dtype("f8", (3, "|", None, ("a",), {"a": (OBJECT, 0)}, 8, 8, 63)), False, b"12345678")),
            "fields",
        ),
        (array((1, (1,), dtype("f8,O", PLAIN), False, b"12345678")), "no plain number or string"),
        (array((1, (1,), "f8", False, b"12345678")), "without a valid shape"),
        (Described(FROMBUFFER, (b"1234", F8, (1,), "C"), None), "another number of bytes"),
        (Described(SCALAR, (OBJECT, 1), None), "a scalar object"),
        (Described(SCALAR, (F8, b"1234"), None), "another number of bytes"),
    ],
)
def test_arrays_and_dtypes_that_lie_are_refused(tmp_path: Path, trick: Described, complaint: str) -> None:
    path = tmp_path / "trick.npy"
    for protocol in (3, 4):
        path.write_bytes(pickle.dumps({"eeg": trick}, protocol=protocol))
        with pytest.raises(SourceError, match=complaint):
            load_pickle(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.npy"
    contents = [pickle.dumps(CONTENT, protocol=2), pickle.dumps(CONTENT, protocol=5)]
    stream = io.BytesIO()
    np.save(stream, CONTENT)  # type: ignore[arg-type]
    contents.append(stream.getvalue())
    stream = io.BytesIO()
    torch.save({"eeg": torch.zeros(50), "names": CONTENT["names"]}, stream)
    contents.append(stream.getvalue())
    for content in contents:
        for length in sorted({*range(1, len(content), 37), len(content) - 1}):
            path.write_bytes(content[:length])
            with pytest.raises(SourceError, match=r"cut\.npy"):
                load_pickle(path)
    path.write_bytes(b"")
    with pytest.raises(SourceError, match=r"cut\.npy: is empty"):
        load_pickle(path)
    with pytest.raises(SourceError, match="can not be read"):
        load_pickle(tmp_path / "absent.npy")


def test_a_changed_byte_gives_an_error_or_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "changed.npy"
    content = {**CONTENT, "x": Attack(os.mkdir, str(tmp_path / "ran"))}
    archive = io.BytesIO()
    torch.save({"eeg": torch.zeros(9), **content}, archive)
    rng = np.random.default_rng(1)
    for original in (pickle.dumps(content, protocol=4), archive.getvalue()):
        for at, value in zip(rng.integers(0, len(original), 400), rng.integers(0, 256, 400), strict=True):
            changed = bytearray(original)
            changed[at] = value
            path.write_bytes(changed)
            # Whatever byte is changed: no other error comes out, and nothing runs.
            with pytest.raises(SourceError):
                load_pickle(path)
    assert not (tmp_path / "ran").exists()


def header(shape: tuple[int, ...], descr: str = "<f8", version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    described = {"descr": descr, "fortran_order": False, "shape": shape}
    stream.write(np.lib.format.magic(*version))
    text = repr(described).encode() + b"\n"
    stream.write(struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (header((10**6, 10**6)) + b"x" * 80, r"says \(1000000, 1000000\) float64, that is 8000000000000 bytes, but 80"),
        (header((10**30,)) + b"x" * 80, "but 80 follow"),
        (header((11,)) + b"x" * 80, "that is 88 bytes, but 80 follow"),
        (header((9,)) + b"x" * 80, "that is 72 bytes, but 80 follow"),
        (header((-1, -10)) + b"x" * 80, "but 80 follow"),
        (header((1,), "|O") + b"x" * 8, "holds Python objects"),
        (header((1,))[:20], "no valid .npy header"),
        (np.lib.format.magic(2, 0) + struct.pack("<I", 2**31) + b"{}", "no valid .npy header"),
        (b"\x93NUMPY\x09\x00" + b" " * 100, "no valid .npy header"),
        (header((1,)).replace(b"<f8", b"abc") + b"x" * 8, "no valid .npy header"),
        (header((1,)).replace(b"False", b"exit ") + b"x" * 8, "no valid .npy header"),
        (b"not numpy at all", "no valid .npy header"),
    ],
)
def test_headers_that_lie_are_refused_before_anything_is_allocated(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "lies.npy"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=complaint):
        load_npy(path)


def test_an_array_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "train.npy"
    for array in (CONTENT["eeg"], CONTENT["fortran"], CONTENT["half"], np.zeros((0, 3))):
        np.save(path, array)
        loaded = load_npy(path)
        assert same(np.asarray(loaded), array)
        assert isinstance(loaded, np.memmap) == bool(array.size)
        assert same(np.asarray(load_pickle(path)), array)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "readme.npy"
    path.write_bytes(b"hello there")
    with pytest.raises(SourceError, match=r"readme\.npy: must be a \.npy file, a pickle of protocol 2 to 5"):
        load_pickle(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/y", "z")
    with pytest.raises(SourceError, match=r"one data\.pkl, has 0"):
        load_pickle(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps([0] * 1000))
    with pytest.raises(SourceError, match="compressed"):
        load_pickle(path)


def test_tensors_outside_their_storage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"eeg": torch.zeros(4, 5)}, path)
    good = load_pickle(path)["eeg"]
    assert good.shape == (4, 5)
    content = path.read_bytes()
    # Shape (4, 5) with strides (5, 1) in the pickle, as BININT1.
    assert content.count(b"K\x04K\x05\x86") == 1
    path.write_bytes(content.replace(b"K\x04K\x05\x86", b"K\x09K\x05\x86"))
    with pytest.raises(SourceError, match=r"a tensor of shape \(9, 5\) over 20 values"):
        load_pickle(path)


def test_torch_files_hold_tensors_and_containers_or_are_refused(tmp_path: Path) -> None:
    path, marker = tmp_path / "eeg_55_95_std.pth", tmp_path / "ran"
    content = {"dataset": [{"eeg": torch.arange(6.0).reshape(2, 3), "label": 3}], "labels": ["n02106662"]}
    for new in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=new)
        loaded = load_torch(path)
        assert torch.equal(loaded["dataset"][0]["eeg"], content["dataset"][0]["eeg"])  # type: ignore[index]
        assert loaded["labels"] == ["n02106662"]
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SourceError, match=r"eeg_55_95_std\.pth: (unreadable or truncated|refused)"):
            load_torch(path)
        torch.save({**content, "x": Attack(os.mkdir, str(marker))}, path, _use_new_zipfile_serialization=new)
        with pytest.raises(SourceError, match=r"eeg_55_95_std\.pth: refused, its pickle asks for 'posix\.mkdir'"):
            load_torch(path)
    assert not marker.exists()
    with pytest.raises(SourceError, match="unreadable"):
        load_torch(tmp_path / "absent.pth")
