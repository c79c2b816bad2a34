"""What the server refuses, and that nothing but a refusal or a valid array ever comes out."""

import io
import struct
import tracemalloc
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eegdecode.runtime.intake import ModelFact, RequestError, check_rate, check_token, parse_seed, parse_trials

FACT = ModelFact(
    bundle="runs/x/bundle",
    digest="d" * 64,
    recipe="demo",
    fold="concepts",
    channels=("O1", "O2", "Oz"),
    n_times=8,
    sfreq_hz=100.0,
    tmin_s=0.0,
    target="gabor",
    concepts=5,
    pictures=10,
    draws=True,
    plausible_uv=(0.02, 5000.0),
)


def trials(n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 10, (n, 3, 8)).astype(np.float32)


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=allow_pickle)
    return out.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1") + data


def refused(body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_trials(body, FACT, max_trials=4)
    return caught.value


def test_valid_trials_come_back_as_they_were() -> None:
    np.testing.assert_array_equal(parse_trials(npy(trials()), FACT, 4), trials())


def with_value(value: float) -> np.ndarray:
    bad = trials()
    bad[1, 2, 5] = value
    return bad


REFUSED = {
    "empty": (b"", 400, "no .npy magic"),
    "text": (b"hello", 400, "no .npy magic"),
    "zip (npz)": (b"PK\x03\x04" + b"0" * 100, 400, "no .npy magic"),
    "cut in the header": (npy(trials())[:20], 400, "header cannot be read"),
    "cut in the data": (npy(trials())[:-1], 400, "promises 192 bytes of data, 191 came"),
    "bytes behind the data": (npy(trials()) + b"x", 400, "193 came"),
    "version 3": (b"\x93NUMPY\x03\x00" + npy(trials())[8:], 400, "header cannot be read"),
    "code in the header": (header("__import__('os').system('true')\n"), 400, "header cannot be read"),
    "header of 60 kB": (header("{" + " " * 60000 + "}\n"), 400, "header cannot be read"),
    "pickle": (npy(np.array([{"a": 1}], dtype=object), allow_pickle=True), 415, "Python objects"),
    "float64": (npy(trials().astype(np.float64)), 415, "dtype <f8"),
    "big-endian": (npy(trials().astype(">f4")), 415, "dtype >f4"),
    "Fortran order": (npy(np.asfortranarray(trials())), 422, "Fortran"),
    "one trial without its axis": (npy(trials()[0]), 422, "shape (3, 8)"),
    "chans and times exchanged": (npy(np.ascontiguousarray(trials().transpose(0, 2, 1))), 422, "shape (2, 8, 3)"),
    "no trial": (npy(trials(0)), 422, "shape (0, 3, 8)"),
    "too many trials": (npy(trials(5)), 413, "(5) trials"),
    "negative size": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3, 8)}\n"), 400, "sizes"),
    "a million million trials": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3, 8)}\n"),
        413,
        "(huge) trials",
    ),
    "NaN": (npy(with_value(np.nan)), 422, "trial 1, chan Oz"),
    "infinity": (npy(with_value(-np.inf)), 422, "trial 1, chan Oz"),
    "volts": (npy(trials() * np.float32(1e-6)), 422, "median absolute value"),
    "nanovolts": (npy(trials() * np.float32(1e3)), 422, "median absolute value"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_came_and_what_was_expected(case: str) -> None:
    body, status, said = REFUSED[case]
    error = refused(body)
    assert error.status == status
    assert said in error.detail
    assert error.problem()["status"] == status
    if status != 422 or "axis" in case:
        assert "(trials, 3 chans, 8 times) in microvolt" in error.expected


def test_a_declared_size_allocates_nothing() -> None:
    huge = header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, 8)}\n")
    tracemalloc.start()
    refused(huge)
    refused(REFUSED["a million million trials"][0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 130), st.integers(0, 400))
def test_fuzz_any_bytes_are_an_array_or_a_refusal(noise: bytes, at: int, keep: int) -> None:
    whole = npy(trials())
    statuses: set[int] = set()
    for body in (noise, b"\x93NUMPY\x01\x00" + noise, whole[:at] + noise + whole[at + len(noise) :], whole[:keep]):
        try:
            eeg = parse_trials(body, FACT, max_trials=4)
        except RequestError as error:
            statuses.add(error.status)
        else:
            assert eeg.dtype == np.float32
            assert eeg.shape[1:] == (3, 8)
            assert 1 <= len(eeg) <= 4
            assert np.isfinite(eeg).all()
    assert statuses <= {400, 413, 415, 422}


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["<f4", "|O", ">f4", "<f8", "V4", "<U9", "<M8[s]", "f4,f4", "", "x"]),
    st.lists(st.integers(-(2**70), 2**70) | st.booleans(), max_size=5),
    st.booleans(),
    st.binary(max_size=200),
)
def test_fuzz_headers(descr: str, shape: list[int], fortran: bool, data: bytes) -> None:
    text = repr({"descr": descr, "fortran_order": fortran, "shape": tuple(shape)}) + "\n"
    with pytest.raises(RequestError):
        parse_trials(header(text, data), FACT, max_trials=4)


def test_tokens_are_known_by_their_hash_only() -> None:
    known = [sha256(t.encode()).hexdigest() for t in ("one", "two")]
    check_token("Bearer two", known)
    check_token("bearer one", known)
    for header_value in (None, "", "two", "Basic two", "Bearer", "Bearer ", "Bearer three", f"Bearer {known[0]}"):
        with pytest.raises(RequestError) as caught:
            check_token(header_value, known)
        assert caught.value.status == 401


@pytest.mark.parametrize(
    ("stated", "ok"), [("100", True), ("100.0", True), ("250", False), ("nan", False), ("x", False)]
)
def test_rate(stated: str, ok: bool) -> None:
    if ok:
        check_rate(stated, FACT)
        return
    with pytest.raises(RequestError, match="sfreq_hz=100") as caught:
        check_rate(stated, FACT)
    assert caught.value.status == 422


def test_seed() -> None:
    assert [parse_seed(s) for s in (None, "0", "17", "2147483647")] == [0, 0, 17, 2**31 - 1]
    for bad in ("-1", "2147483648", "1.5", "x", "٣", "9" * 5000):
        with pytest.raises(RequestError, match="seed"):
            parse_seed(bad)
