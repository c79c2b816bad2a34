"""Electrodes are told apart by the names of the 10-20 system."""

import mne
import pytest

from eegdecode.analyse.regions import OTHER, PREFIXES, region_of, regions_of


@pytest.mark.parametrize(
    ("region", "names"),
    [
        ("frontal", "Fp1 FPZ af7 Afz F10 AFp9h AFF5h FFC1h FFT9h Nz"),
        ("central", "FCz C3 Cz CP6 FCC5h CCP1h"),
        ("temporal", "FT9 T7 t8 T3 TP9 TP10 FTT9h TTP7h"),
        ("parietal", "P7 Pz P10 CPP3h TPP9h PPO10h"),
        ("occipital", "POz PO8 O1 Oz Iz OI2h POO9h"),
        (OTHER, "E17 A1 M2 CB1 EOG 12 Status C"),
    ],
)
def test_region_by_name(region: str, names: str) -> None:
    assert dict(zip(names.split(), region_of(names.split()), strict=True)) == dict.fromkeys(names.split(), region)


def test_a_cap_that_counts_its_own_way_has_no_regions() -> None:
    biosemi = [f"{letter}{i}" for letter in "ABCD" for i in range(1, 33)]
    assert regions_of(biosemi) == {OTHER: list(range(128))}
    assert region_of(["C3", "Cz", "O1"]) == ("central", "central", "occipital")


def test_every_scalp_electrode_of_the_montage_has_a_region() -> None:
    names = mne.channels.make_standard_montage("colin27_1005").ch_names
    assert len(names) > 300
    assert [n for n, region in zip(names, region_of(names), strict=True) if region == OTHER] == ["M1", "M2", "A1", "A2"]


def test_regions_run_front_to_back_and_only_those_that_are_there() -> None:
    assert regions_of(["Oz", "AF7", "A1", "O2"]) == {"frontal": [1], "occipital": [0, 3], OTHER: [2]}
    assert list(PREFIXES) == ["frontal", "central", "temporal", "parietal", "occipital"]
