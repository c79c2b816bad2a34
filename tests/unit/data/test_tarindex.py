"""Tars and indexes made by hand to deceive: each is refused by name, or read as what it is."""

import dataclasses
import io
import json
import re
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eegdecode.data.tarindex import TarIndex, index_tar

END = bytes(1024)


def header(name: bytes, size: int | bytes, kind: bytes = b"0", prefix: bytes = b"", link: bytes = b"") -> bytes:
    """A USTAR header as a forger writes it: anything may be wrong but its checksum."""
    written = size if isinstance(size, bytes) else b"%011o\0" % size
    assert len(written) == 12
    start = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + written + b"00000000000\0"
    rest = kind + link.ljust(100, b"\0") + b"ustar\00000" + bytes(80) + prefix.ljust(155, b"\0")
    block = (start + b" " * 8 + rest).ljust(512, b"\0")
    assert len(block) == 512
    return start + b"%06o\0 " % sum(block) + block[156:]


def member(name: bytes, data: bytes = b"1", **fields) -> bytes:
    return header(name, fields.pop("size", len(data)), **fields) + data + bytes(-len(data) % 512)


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def npy_saying(text: str, data: bytes = bytes(24), version: bytes = b"\1\0") -> bytes:
    """An npy array whose header is any text."""
    line = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(line).to_bytes(2, "little") + line + data


def saying(shape: str, descr: str = "'<f8'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def refused(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "hostile.tar"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        index_tar(path)
    return str(caught.value)


def test_headers_by_hand_are_what_tarfile_writes(tmp_path: Path):
    path = tmp_path / "good.tar"
    path.write_bytes(member(b"a.json", b"{}") + member(b"a.x.npy", npy(np.zeros(3))) + END)
    index = index_tar(path)
    with tarfile.open(path) as tar:
        assert index.offset_NF.ravel().tolist() == [each.offset_data for each in tar.getmembers()]
        assert index.size_NF.ravel().tolist() == [each.size for each in tar.getmembers()]
    info = tarfile.TarInfo("a.json")
    info.size = 2
    assert info.tobuf(tarfile.USTAR_FORMAT) == header(b"a.json", 2)


NOT_A_FILE = "must be an ordinary USTAR file with a short name"
TARS = {
    "hard link": (member(b"a.json", b"", kind=b"1", link=b"/etc/passwd"), f"'a.json' {NOT_A_FILE}"),
    "symbolic link": (member(b"a.json", b"", kind=b"2", link=b"../../secret"), f"'a.json' {NOT_A_FILE}"),
    "character device": (member(b"a.json", b"", kind=b"3"), NOT_A_FILE),
    "block device": (member(b"a.json", b"", kind=b"4"), NOT_A_FILE),
    "folder": (member(b"a.json", b"", kind=b"5"), NOT_A_FILE),
    "FIFO": (member(b"a.json", b"", kind=b"6"), NOT_A_FILE),
    "contiguous file": (member(b"a.json", kind=b"7"), NOT_A_FILE),
    "old file": (member(b"a.json", kind=b"\0"), NOT_A_FILE),
    "sparse file": (member(b"a.json", kind=b"S"), NOT_A_FILE),
    "PAX name": (member(b"PaxHeaders/a", b"17 path=../../b\n", kind=b"x") + member(b"a.json"), NOT_A_FILE),
    "PAX for all": (member(b"pax_global", b"17 path=../../b\n", kind=b"g") + member(b"a.json"), NOT_A_FILE),
    "GNU long name": (member(b"././@LongLink", b"b" * 200, kind=b"L") + member(b"a.json"), NOT_A_FILE),
    "GNU long link": (member(b"././@LongLink", b"b" * 200, kind=b"K") + member(b"a.json"), NOT_A_FILE),
    "prefix": (member(b"a.json", prefix=b"../.."), NOT_A_FILE),
    "absolute name": (member(b"/etc/passwd.json"), "a member must be named <letters, digits, - and _>.<field>"),
    "name upward": (member(b"../a.json"), r"must be named .* got b'../a.json'"),
    "name in a folder": (member(b"b/a.json"), "must be named"),
    "name with a backslash": (member(b"b\\a.json"), "must be named"),
    "name with a line end": (member(b"a\n.json"), "must be named"),
    "name of no letters": (member(b"a.json") + member(b"\xe5.json"), r"must be named .* got b'\\xe5\.json'"),
    "name of other letters": (member("ä.json".encode()), "must be named"),
    "name without field": (member(b"a"), "must be named"),
    "field of three parts": (member(b"a.b.c.npy"), "must be named"),
    "no name": (member(b""), "the header at byte 0 has no name"),
    "size negative": (member(b"a.json", size=b"-0000000001\0"), r"size of 'a.json' must be eleven octal digits, got"),
    "size with a sign": (member(b"a.json", size=b"+0000000001\0"), "must be eleven octal digits"),
    "size with a bar": (member(b"a.json", size=b"0000000_001\0"), "must be eleven octal digits"),
    "size of twelve digits": (member(b"a.json", size=b"777777777777"), "must be eleven octal digits"),
    "size in base 256": (member(b"a.json", size=b"\x80" + bytes(10) + b"\1"), "must be eleven octal digits"),
    "size in base 256, negative": (member(b"a.json", size=b"\xff" * 12), "must be eleven octal digits"),
    "size decimal": (member(b"a.json", size=b"00000000009\0"), "must be eleven octal digits"),
    "no size": (member(b"a.json", size=bytes(12)), "must be eleven octal digits"),
    "size beyond the end": (member(b"a.json", size=4096), "was cut: 'a.json' goes on past the end at byte 2048"),
    "largest size": (member(b"a.json", size=b"77777777777\0"), "goes on past the end"),
    "field twice": (member(b"a.json") * 2, "'a.json' occurs twice; a sample has each field once"),
    "sample twice": (member(b"a.json") + member(b"b.json") + member(b"a.json"), "key 'a' occurs twice"),
    "sample twice in a row": ((member(b"a.json") + member(b"a.png")) * 2, "'a.json' occurs twice"),
    "field missing": (
        member(b"a.json") + member(b"a.png") + member(b"b.json"),
        r"every sample must have the fields \['json', 'png'\] in order; not at b'b.json'",
    ),
    "field missing in the first": (member(b"a.json") + member(b"b.json") + member(b"b.png"), "must have the fields"),
    "fields in another order": (
        member(b"a.json") + member(b"a.png") + member(b"b.png") + member(b"b.json"),
        "must have the fields",
    ),
    "nothing": (b"", "holds no sample"),
    "lost sector": (member(b"a.json") + bytes(512) + b"1" * 512, "its end mark is at byte 1024, and at byte 1536"),
    "second tar behind": (member(b"a.json") + END + member(b"b.json"), "its end mark is at byte 1024"),
}


@pytest.mark.parametrize("case", TARS)
def test_hostile_tars_are_refused(tmp_path: Path, case: str):
    content, message = TARS[case]
    assert re.search(message, said := refused(tmp_path, content + END)), said


def test_a_tar_cut_anywhere_is_refused(tmp_path: Path):
    good = member(b"a.json", b"1" * 700) + member(b"b.json", b"2" * 700) + END
    for n in (1, 511, 512, 700, 1024, 1536, 2048, 3000, len(good) - 1024, len(good) - 512, len(good) - 1):
        assert "was cut" in refused(tmp_path, good[:n]), n
    assert "is empty" in refused(tmp_path, b"")


def test_wrong_checksums_are_refused(tmp_path: Path):
    good = member(b"a.json") + member(b"b.json")
    at = 1024 + 148
    for stated in (b"000000\0 ", b"777777\0 ", b"-00001\0 ", b"0x1000\0 ", b"\xff" * 8, bytes(8), good[148:155] + b"9"):
        said = refused(tmp_path, good[:at] + stated + good[at + 8 :] + END)
        assert "was altered: a header of sample 'b' does not add up" in said


NUMBERS = "must be a plain C-ordered array of numbers as long as it says"
ARRAYS = {
    "more than there is": (saying("(4,)"), rf"'a.x.npy' {NUMBERS}: .*float64 \(4,\), and 24 bytes"),
    "less than there is": (saying("(2,)"), NUMBERS),
    "two negative sizes": (saying("(-3, -1)"), r"sizes of at least 1, got \(-3, -1\)"),
    "a negative size": (saying("(-3,)"), "sizes of at least 1"),
    "nothing, absurdly large": (saying("(0, 100000000000000000000)"), "sizes of at least 1"),
    "a product that goes over": (saying("(4294967296, 4294967296, 3)"), NUMBERS),
    "true for one": (saying("(True, 3)"), "sizes of at least 1"),
    "more dimensions than NumPy has": (saying(f"({'1, ' * 65}3)"), "at most 64 sizes"),
    "shape of text": (saying("('3',)"), "is no npy array"),
    "objects": (saying("(3,)", "'|O'"), f"{NUMBERS}: its type is object"),
    "text": (saying("(3,)", "'<U2'"), NUMBERS),
    "a record": (saying("(3,)", "[('a', '<f4'), ('b', '<f4')]"), NUMBERS),
    "dates": (saying("(3,)", "'<M8[s]'"), NUMBERS),
    "complex": (saying("(3,)", "'<c8'"), NUMBERS),
    "Fortran order": (saying("(3, 1)", order="True"), "must be in C order, got Fortran order"),
    "order by number": (saying("(3,)", order="1"), "is no npy array"),
    "a call": ("__import__('os').abort()", "is no npy array"),
    "a call in it": (saying("(__import__('os').abort(),)"), "is no npy array"),
    "a power": (saying("(9**9**9,)"), "is no npy array"),
    "deep nesting": ("(" * 3000, "is no npy array"),
    "another key": (saying("(3,)")[:-2] + "'x': 1}", "is no npy array"),
    "a key missing": ("{'descr': '<f8', 'shape': (3,)}", "is no npy array"),
    "a list": ("[]", "is no npy array"),
    "zero bytes": ("\0\0", "is no npy array"),
    "a long header": (saying("(3,)") + " " * 5000, "is no npy array"),
}


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_whose_headers_lie_are_refused(tmp_path: Path, case: str):
    text, message = ARRAYS[case]
    assert re.search(message, said := refused(tmp_path, member(b"a.x.npy", npy_saying(text)) + END)), said


def test_other_arrays_are_refused(tmp_path: Path):
    good = npy(np.zeros(3))
    for data, message in (
        (npy_saying(saying("(3,)"), version=b"\2\0"), "it must be npy 1.0, got 2.0"),
        (npy_saying(saying("(3,)"), version=b"\3\0"), "it must be npy 1.0, got 3.0"),
        (b"", "is no npy array"),
        (b"\x93NUMPY\1\0\xff\xff{", "is no npy array"),
        (good[:50], "is no npy array"),
        (good[:-1], NUMBERS),
    ):
        assert message in refused(tmp_path, member(b"a.x.npy", data) + END)
    # The rooms differ: nothing is read behind the end for the one that is too short.
    long = npy_saying(saying("(3,)") + " " * 3000)
    said = refused(tmp_path, member(b"a.x.npy", long) + member(b"b.x.npy", b"") + END)
    assert "'b.x.npy' must have the type and shape of the first, float64 (3,)" in said
    for other in (npy(np.zeros(3, "<i8")), npy(np.zeros(3, ">f8")), npy(np.zeros((1, 3)))):
        assert "the type and shape" in refused(tmp_path, member(b"a.x.npy", good) + member(b"b.x.npy", other) + END)


def good_tar() -> bytes:
    rng = np.random.default_rng(0)
    return b"".join(
        member(b"t%d.eeg.npy" % k, npy(rng.normal(size=(3, 5)).astype("<f2"))) + member(b"t%d.json" % k, b'{"k": 1}')
        for k in range(3)
    ) + bytes(1024)


GOOD = good_tar()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TarIndex]:
    path = tmp_path_factory.mktemp("good") / "good.tar"
    path.write_bytes(GOOD)
    return path, index_tar(path)


@settings(max_examples=600, deadline=None)
@given(at=st.integers(0, len(GOOD) - 1), change=st.integers(1, 255))
def test_no_single_byte_makes_another_index(good: tuple[Path, TarIndex], at: int, change: int):
    path, index = good
    content = bytearray(GOOD)
    content[at] ^= change
    flipped = path.with_name("flipped.tar")
    flipped.write_bytes(content)
    is_data = any(
        offset + (128 if field.dtype else 0) <= at < offset + size
        for offsets, sizes in zip(index.offset_NF.tolist(), index.size_NF.tolist(), strict=True)
        for offset, size, field in zip(offsets, sizes, index.fields, strict=True)
    )
    got, said = index_or_refusal(lambda: index_tar(flipped))
    if got is None:
        assert str(flipped) in said
        assert not is_data
        return
    assert got.tar_sha256 != index.tar_sha256
    assert same(got, dataclasses.replace(index, tar_sha256=got.tar_sha256))


def index_or_refusal(call: Callable[[], TarIndex]) -> tuple[TarIndex | None, str]:
    try:
        return call(), ""
    except ValueError as error:
        return None, str(error)


def same(one: TarIndex, other: TarIndex) -> bool:
    return one.to_bytes() == other.to_bytes()


def stored(facts: dict | bytes | None = None, **arrays: np.ndarray) -> bytes:
    """The index of the good tar with other facts or arrays."""
    index_facts = {
        "format": "eegdecode tar index 1",
        "tar_sha256": "0" * 64,
        "tar_bytes": len(GOOD),
        "fields": [["eeg.npy", "<f2", [3, 5], 128], ["json", "", [], 0]],
    }
    text = facts if isinstance(facts, bytes) else json.dumps(index_facts | (facts or {})).encode()
    offset_NF = np.array([[512, 1536], [2560, 3584], [4608, 5632]])
    base = {
        "facts": np.frombuffer(text, np.uint8),
        "keys": np.array([b"t0", b"t1", b"t2"]),
        "offset_NF": offset_NF,
        "size_NF": np.tile([158, 8], (3, 1)),
    }
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **(base | arrays))
    return file.getvalue()


def test_a_stored_index_comes_back(good: tuple[Path, TarIndex]):
    _, index = good
    assert same(TarIndex.from_bytes("i", index.to_bytes()), index)
    other = TarIndex.from_bytes("i", stored({"tar_sha256": index.tar_sha256}))
    assert same(other, index)


def changed(name: str, row: int, f: int, value: int) -> dict[str, np.ndarray]:
    arrays = {"offset_NF": np.array([[512, 1536], [2560, 3584], [4608, 5632]]), "size_NF": np.tile([158, 8], (3, 1))}
    arrays[name][row, f] = value
    return {name: arrays[name]}


FIELDS = [["eeg.npy", "<f2", [3, 5], 128], ["json", "", [], 0]]
INDEXES = {
    "offset behind the end": (stored(**changed("offset_NF", 2, 1, 1 << 20)), "must point into its tar of"),
    "largest offset": (stored(**changed("offset_NF", 2, 1, (1 << 63) - 512)), "must point into its tar of"),
    "negative offset": (stored(**changed("offset_NF", 0, 0, -512)), "must point into its tar of"),
    "offset of a header": (stored(**changed("offset_NF", 0, 0, 0)), "'t0.eeg.npy' must follow what is before it"),
    "uneven offset": (stored(**changed("offset_NF", 1, 0, 2561)), "'t1.eeg.npy' must follow what is before it"),
    "overlapping members": (stored(**changed("offset_NF", 1, 0, 1536)), "'t1.eeg.npy' must follow .* overlaps it"),
    "the same place twice": (stored(**changed("offset_NF", 1, 1, 1536)), "'t1.json' must follow"),
    "negative size": (stored(**changed("size_NF", 2, 1, -1)), "must point into its tar of"),
    "size behind the end": (stored(**changed("size_NF", 2, 1, len(GOOD) - 5632)), "must point into its tar of"),
    "largest size": (stored(**changed("size_NF", 2, 1, (1 << 63) - 1)), "must point into its tar of"),
    "size into the next": (stored(**changed("size_NF", 0, 1, 1000)), "'t1.eeg.npy' must follow"),
    "size that is not the array's": (
        stored(**changed("size_NF", 1, 0, 150)),
        "'t1.eeg.npy' must have 158 bytes .* 150",
    ),
    "offsets as floats": (stored(offset_NF=np.zeros((3, 2))), "'offset_NF' has type float64"),
    "offsets of 32 bits": (stored(offset_NF=np.zeros((3, 2), "<i4")), "one place per field and sample, as int64"),
    "offsets of another machine": (stored(offset_NF=np.zeros((3, 2), ">i8")), "as int64"),
    "one row less": (stored(size_NF=np.ones((2, 2), np.int64)), "one place per field and sample"),
    "one field less": (stored({"fields": FIELDS[:1]}), "one place per field and sample"),
    "offsets in Fortran order": (stored(offset_NF=np.zeros((3, 2), np.int64, order="F")), "must be in C order"),
    "no sample": (stored(keys=np.zeros(0, "S2")), "sizes of at least 1"),
    "keys of objects": (stored(keys=np.array([b"t0", b"t1", b"t2"], dtype=object)), "must not hold objects"),
    "keys as numbers": (stored(keys=np.arange(3)), "'keys' has type int64"),
    "key twice": (stored(keys=np.array([b"t0", b"t1", b"t0"])), "each key must be there once, 't0' occurs twice"),
    "key upward": (stored(keys=np.array([b"t0", b"../t1", b"t2"])), r"a key must be letters.* got '\.\./t1'"),
    "key of other letters": (stored(keys=np.array([b"t0", b"\xff", b"t2"])), "must be an index"),
    "field twice": (stored({"fields": [FIELDS[1]] * 2}), "each field must be there once, 'json' occurs twice"),
    "field upward": (stored({"fields": [FIELDS[0], ["../x", "", [], 0]]}), r"cannot be named '\.\./x'"),
    "no field": (stored({"fields": []}), "one place per|there is none"),
    "array of objects": (stored({"fields": [["eeg.npy", "|O", [3, 5], 128], FIELDS[1]]}), "array of numbers"),
    "no type": (stored({"fields": [["eeg.npy", "", [3, 5], 128], FIELDS[1]]}), "data type '' not understood"),
    "negative shape": (stored({"fields": [["eeg.npy", "<f2", [-3, -5], 128], FIELDS[1]]}), "sizes of at least 1"),
    "shape that goes over": (stored({"fields": [["eeg.npy", "<f2", [1 << 62, 4], 128], FIELDS[1]]}), "to be <f2"),
    "negative header": (stored({"fields": [["eeg.npy", "<f2", [3, 5], -1], FIELDS[1]]}), "array of numbers"),
    "shape as text": (stored({"fields": [["eeg.npy", "<f2", "35", 128], FIELDS[1]]}), "sizes of at least 1"),
    "type where none belongs": (stored({"fields": [FIELDS[0], ["json", "<f2", [4], 0]]}), "is no array"),
    "another format": (stored({"format": "index 2"}), "its format is 'index 2'"),
    "no sha256": (stored({"tar_sha256": "x"}), "does not say of which tar"),
    "tar of no size": (stored({"tar_bytes": 0}), "cannot have 0 bytes"),
    "tar without bounds": (stored({"tar_bytes": 1 << 70}), "cannot have"),
    "tar size as text": (stored({"tar_bytes": "9999"}), "cannot have 9999 bytes"),
    "facts that are no JSON": (stored(b"{"), "must be an index"),
    "facts nested too deeply": (stored(b"[" * 100_000), "must be an index"),
    "facts of another kind": (stored(b"[]"), "must be an index"),
    "one array more": (stored(more=np.zeros(3)), "must hold the arrays"),
    "no zip": (b"PK", "must be an index"),
    "nothing": (b"", "must be an index"),
    "cut": (stored()[:-30], "must be an index"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_indexes_that_lie_are_refused(case: str):
    content, message = INDEXES[case]
    with pytest.raises(ValueError, match=message) as caught:
        TarIndex.from_bytes("hostile.index.npz", content)
    assert str(caught.value).startswith("hostile.index.npz")
    assert str(caught.value).endswith("Prepare the set again.")


def zipped(method: int, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in ("facts", "keys", "offset_NF", "size_NF"):
            archive.writestr(f"{name}.npy", members.get(name, npy(np.zeros(1))))
    return file.getvalue()


def test_zip_bombs_are_refused_before_they_take_memory(peak_bytes):
    bomb = zipped(zipfile.ZIP_DEFLATED, offset_NF=npy(np.zeros(32 << 20, np.int64)))
    assert len(bomb) < 1 << 20
    # A quarter of a million gigabytes by the header alone, in 24 bytes.
    declared = zipped(zipfile.ZIP_STORED, facts=npy_saying(saying("(35184372088832,)")))
    doubled = bytearray(stored())
    at = doubled.rindex(b"PK\1\2")
    doubled[at + 24 : at + 28] = (1 << 31).to_bytes(4, "little")
    for content, message in (
        (bomb, "'facts' must be stored without compression"),
        (declared, "its header says float64 .* not as long as"),
        (bytes(doubled), "'size_NF' must be stored without compression, got .* that are to become 2147483648"),
    ):

        def read(content: bytes = content, message: str = message) -> None:
            with pytest.raises(ValueError, match=message):
                TarIndex.from_bytes("hostile.index.npz", content)

        assert peak_bytes(read) < 8 << 20


@pytest.fixture
def peak_bytes():
    """Give the most memory a call held at once, as Python and NumPy ask for it."""

    def measure(call) -> int:
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_single_byte_makes_another_stored_index(data: st.DataObject):
    content = bytearray(stored())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    got, said = index_or_refusal(lambda: TarIndex.from_bytes("hostile.index.npz", bytes(content)))
    if got is None:
        assert said.startswith("hostile.index.npz")
    else:
        assert same(got, TarIndex.from_bytes("i", stored()))
