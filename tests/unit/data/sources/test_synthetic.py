import mne
import numpy as np
import pytest

from eegdecode.config import SyntheticData
from eegdecode.data.sources import forward_model
from eegdecode.data.sources.forward_model import CHANNELS, SFREQ_HZ, Generator, electrode_info, leadfield
from eegdecode.data.sources.synthetic import SyntheticSource

SMALL = SyntheticData(
    n_subjects=2, n_train_concepts=8, pictures_per_concept=2, train_repetitions=1, n_test_concepts=4, test_repetitions=3
)
SILENT = Generator(
    background_uv=0, alpha_uv=0, line_uv=0, sensor_uv=0, blink_uv=0, bad_uv=0, variability=0, evoked_uv=2.0
)


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(SMALL)


def test_reading_twice_gives_the_same_bytes_and_seeds_differ(source: SyntheticSource) -> None:
    ref = source.recordings()[0]
    first, again = source.read(ref), SyntheticSource(SMALL).read(ref)
    np.testing.assert_array_equal(first.raw.get_data(), again.raw.get_data())
    assert first.events.equals(again.events)
    other = SyntheticSource(SMALL.model_copy(update={"seed": 1})).read(ref)
    assert not np.allclose(first.raw.get_data(), other.raw.get_data())


def test_design_is_rapid_with_disjoint_concepts_and_the_repetitions_asked_for(source: SyntheticSource) -> None:
    pictures = {p.picture: p for p in source.pictures()}
    parts = {part: {p.concept for p in pictures.values() if p.partition == part} for part in ("train", "test")}
    assert len(parts["train"]) == 8
    assert len(parts["test"]) == 4
    assert not parts["train"] & parts["test"]
    shown = [name for ref in source.recordings() for name in source.read(ref).events["picture"]]
    counts = {name: shown.count(name) for name in pictures}
    assert all(n == (6 if name.startswith("test/") else 2) for name, n in counts.items())  # two subjects


def test_at_least_250_concepts_can_be_had() -> None:
    source = SyntheticSource(SyntheticData(n_train_concepts=300, n_test_concepts=200))
    assert source.table["concept"].nunique() == 500


def test_pictures_of_a_concept_differ_and_concepts_do_too(source: SyntheticSource) -> None:
    images = [np.asarray(p.images()[0]) for p in source.pictures()]
    flat = np.stack([image.reshape(-1) for image in images]).astype(int)
    assert images[0].shape == (64, 64, 3)
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_leadfield_is_mnes_forward_solution_of_a_dipole() -> None:
    place, direction = np.array([[-0.3, -0.6, 0.1]]), np.array([[0.0, -0.6, 0.8]])
    sphere = mne.make_sphere_model(forward_model.HEAD_CENTRE_M, forward_model.HEAD_RADIUS_M, verbose="error")
    dipole = mne.Dipole(
        [0.0], place * forward_model.HEAD_RADIUS_M + forward_model.HEAD_CENTRE_M, [1e-9], direction, [100]
    )
    forward, _ = mne.make_forward_dipole(dipole, sphere, electrode_info(), trans=None, verbose="error")
    volt = forward["sol"]["data"][:, 0] * 1e-9  # the potential of 1 nAm
    np.testing.assert_allclose(leadfield(place, direction)[:, 0], (volt[:-1] - volt[-1]) * 1e6, rtol=1e-5, atol=1e-8)


def test_without_noise_a_recording_is_the_sum_of_templates(source: SyntheticSource) -> None:
    quiet = SyntheticSource(SMALL, SILENT)
    recording = quiet.read(quiet.recordings()[0])
    model = quiet.parameters("01")
    names = list(recording.events["picture"])
    templates = model.templates_uv(quiet.code(names))
    expected = np.zeros((len(CHANNELS), recording.raw.n_times))
    for sample, template in zip(recording.events["sample"], templates, strict=True):
        expected[:, sample : sample + template.shape[-1]] += template
    np.testing.assert_allclose(recording.raw.get_data() * 1e6, expected, atol=1e-9)


def test_every_response_has_the_same_power_so_power_tells_nothing(source: SyntheticSource) -> None:
    model = source.parameters("01")
    names = list(source.table.index)
    response = model.templates_uv(source.code(names)) - model.evoked_uv_CT
    power_P = np.mean(response**2, axis=(1, 2))
    np.testing.assert_allclose(power_P, power_P[0], rtol=1e-6)


def test_noise_has_the_covariance_that_is_declared(source: SyntheticSource) -> None:
    model = source.parameters("01")
    for part in model.noise:
        drawn = part.draw(200_000, np.random.default_rng(0))
        wanted, got = np.trace(part.covariance_uv2_CC), np.trace(np.cov(drawn))
        assert got == pytest.approx(wanted, rel=0.15), part.name


def test_subjects_differ_and_electrodes_are_those_of_things_eeg2(source: SyntheticSource) -> None:
    one, two = source.parameters("01"), source.parameters("02")
    assert not np.allclose(one.kernel_uv_KCT, two.kernel_uv_KCT)
    recording = source.read(source.recordings()[0])
    assert tuple(recording.raw.ch_names) == CHANNELS
    assert len(CHANNELS) == 63
    assert recording.raw.info["sfreq"] == SFREQ_HZ
    with pytest.raises(ValueError, match="subject must be '01' to '02'"):
        source.parameters("03")
