from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from eegdecode.batch import Fold, TargetFact
from eegdecode.bundle import Bundle, BundleFact, Gallery
from eegdecode.config import Experiment
from eegdecode.diffusion.drawer import Drawer
from eegdecode.models.decoder import build_decoder
from eegdecode.reconstruct.reconstructor import Reconstructor, anchor_conditions

N_CHANS, N_TIMES, DIM = 3, 20, 6


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """A real decoder, gallery and drawer of toy size, untrained."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    decoder = build_decoder(
        "mlp", n_chans=N_CHANS, n_times=N_TIMES, target_dim=DIM, dropout=0.5, temperature=0.1, learn_temperature=True
    )
    return Bundle(
        experiment=Experiment(recipe="toy"),
        fact=BundleFact(
            manifest_digest="0" * 64,
            targets_digest="0" * 64,
            fold=Fold(name="concepts", by="concept", train=("a",), val=(), test=("b",)),
            channels=("Oz", "O1", "O2"),
            sfreq_hz=100.0,
            tmin_s=-0.2,
            n_times=N_TIMES,
            target=TargetFact(tower="toy", layer="none", revision="0", preprocessing="none", dim=DIM),
            step=1,
            val_score=None,
        ),
        decoder=decoder,
        bridge_weight_ED=rng.standard_normal((DIM, DIM)).astype(np.float32),
        bridge_bias_D=rng.standard_normal(DIM).astype(np.float32),
        gallery=Gallery(
            ("p0", "p1", "p2", "p3"), ("cat", "dog", "cat", "ant"), rng.standard_normal((4, DIM)).astype(np.float32)
        ),
        drawer=Drawer(DIM, 16, 16, sampler_steps=2).eval(),
    )


def trials(n: int) -> np.ndarray:
    return (10 * np.random.default_rng(1).standard_normal((n, N_CHANS, N_TIMES))).astype(np.float32)


def test_embedding_is_the_decoder_in_eval_mode(bundle):
    bundle.decoder.train()
    eeg = trials(5)
    z = Reconstructor(bundle).embed(eeg, sfreq_hz=100.0)
    with torch.no_grad():
        expected = bundle.decoder.eval()(torch.from_numpy(eeg)).numpy()
    np.testing.assert_allclose(z, expected, atol=1e-5)


def test_one_trial_alone_equals_the_same_trial_in_a_batch_to_the_bit(bundle):
    maker = Reconstructor(bundle)
    eeg = trials(37)
    z = maker.embed(eeg)
    pictures = maker.draw(z, seed=3)
    for n in (0, 15, 16, 36):
        alone = maker.embed(eeg[n : n + 1])
        np.testing.assert_array_equal(alone, z[n : n + 1])
        np.testing.assert_array_equal(maker.draw(alone, seed=3), pictures[n : n + 1])


def test_drawing_goes_through_the_bridge_from_unit_norm(bundle):
    maker = Reconstructor(bundle)
    z = np.array([[3, 0, 0, 0, 0, 0], [0, 0.1, 0, 0, 0, 0]], np.float32)
    expected = bundle.bridge_weight_ED[:2] + bundle.bridge_bias_D
    np.testing.assert_allclose(maker.condition(z), expected, atol=1e-6)
    np.testing.assert_array_equal(maker.draw(z, seed=0), bundle.drawer.draw(maker.condition(z), seed=0))


def test_a_concept_scores_by_its_nearest_picture(bundle):
    maker = Reconstructor(bundle)
    gallery = bundle.gallery.target_PD
    top = maker.top_concepts(7 * gallery[[2, 1]], k=3)
    assert [trial[0][0] for trial in top] == ["cat", "dog"]
    assert top[0][0][1] == pytest.approx(1.0)
    unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    cosine = unit @ unit[1]
    expected = {"cat": max(cosine[0], cosine[2]), "dog": 1.0, "ant": cosine[3]}
    assert dict(top[1]) == pytest.approx(expected, abs=1e-6)
    assert [score for _, score in top[1]] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-6)
    with pytest.raises(ValueError, match="3 concepts"):
        maker.top_concepts(gallery, k=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda eeg: eeg.astype(np.float64), "dtype float64"),
        (lambda eeg: eeg[:, :2], r"Chans in order: Oz, O1, O2; rate 100 Hz from -0\.2 s"),
        (lambda eeg: eeg[0], "got shape"),
        (lambda eeg: eeg * np.float32(1e-6), "must be in microvolt"),
        (lambda eeg: eeg * np.float32(1e3), "must be in microvolt"),
    ],
)
def test_eeg_that_does_not_fit_is_refused(bundle, change, message):
    with pytest.raises(ValueError, match=message):
        Reconstructor(bundle).embed(change(trials(2)))


def test_nan_is_named_and_another_rate_refused(bundle):
    eeg = trials(3)
    with pytest.raises(ValueError, match="100 Hz, got 128 Hz"):
        Reconstructor(bundle).embed(eeg, sfreq_hz=128.0)
    eeg[1, 2, 5] = np.nan
    with pytest.raises(ValueError, match="trial 1, chan O2"):
        Reconstructor(bundle).embed(eeg)


def test_a_bundle_without_drawer_ranks_but_does_not_draw(bundle):
    maker = Reconstructor(
        Bundle(**{name: getattr(bundle, name) for name in bundle.__dataclass_fields__} | {"drawer": None})
    )
    z = maker.embed(trials(1))
    assert len(maker.top_concepts(z, k=1)) == 1
    with pytest.raises(ValueError, match="no drawer"):
        maker.draw(z, seed=0)


def test_anchors_are_what_their_names_say():
    rng = np.random.default_rng(0)
    train, true = rng.standard_normal((8, 4)).astype(np.float32), rng.standard_normal((5, 4)).astype(np.float32)
    predicted = train[[3, 3, 0, 7, 1]] + np.float32(0.01)
    anchors = anchor_conditions(true, train, seed=1, z_predicted_ND=predicted)
    assert anchors["nearest"].tolist() == [3, 3, 0, 7, 1]
    np.testing.assert_array_equal(anchors["oracle"], true)
    np.testing.assert_allclose(anchors["mean"], np.repeat(train.mean(0, keepdims=True), 5, axis=0), atol=1e-6)
    assert all(any((row == t).all() for t in train) for row in anchors["random"])
    np.testing.assert_array_equal(anchors["random"], anchor_conditions(true, train, seed=1)["random"])
    assert not np.array_equal(anchors["random"], anchor_conditions(true, train, seed=2)["random"])
    with pytest.raises(ValueError, match=r"\(N, D\) and \(P, D\)"):
        anchor_conditions(true[:, :3], train, seed=1)


def test_predicts_like_a_classifier_of_scikit_learn(bundle):
    model, eeg = Reconstructor(bundle), trials(6)
    assert model.classes_.tolist() == ["ant", "cat", "dog"]
    probability = model.predict_proba(eeg, sfreq_hz=100.0)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    # By hand: a softmax over the four pictures, and the two cats added up.
    z = functional.normalize(torch.from_numpy(model.embed(eeg)), dim=1)
    gallery = functional.normalize(torch.from_numpy(bundle.gallery.target_PD), dim=1)
    picture = torch.softmax(bundle.decoder.logit_scale.detach().exp() * z @ gallery.T, dim=1).numpy()
    expected = np.stack([picture[:, 3], picture[:, 0] + picture[:, 2], picture[:, 1]], axis=1)
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    named = model.predict(eeg)
    assert named.tolist() == model.classes_[expected.argmax(axis=1)].tolist()
    assert model.score(eeg, named) == 1.0
    assert model.score(eeg, ["nothing"] * 6) == 0.0


def test_every_output_of_the_decoder_can_be_had_by_name(bundle):
    torch.manual_seed(1)
    decoder = build_decoder("mlp", N_CHANS, N_TIMES, DIM, 0.5, 0.1, True, heads={"text": 3}, features=5).eval()
    model, eeg = Reconstructor(replace(bundle, decoder=decoder)), trials(4)
    found = model.outputs(eeg, sfreq_hz=100.0)
    assert {name: value.shape for name, value in found.items()} == {"": (4, DIM), "features": (4, 5), "text": (4, 3)}
    with torch.no_grad():
        f = decoder.encoder(torch.from_numpy(eeg))
        np.testing.assert_allclose(found["features"], f.numpy(), atol=1e-5)
        np.testing.assert_allclose(found[""], decoder.read_out(f).numpy(), atol=1e-5)
        np.testing.assert_allclose(found["text"], decoder.heads["text"](decoder.read_out(f)).numpy(), atol=1e-5)
    np.testing.assert_array_equal(model.embed(eeg), found[""])
    with pytest.raises(ValueError, match="got no trial"):
        model.outputs(eeg[:0])
