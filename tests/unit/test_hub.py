"""A bundle in the layout of the Hugging Face hub, read back by the hub's own library from its own cache."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import eegdecode
from eegdecode import bundle, hub
from tests.writers.bundles import toy_bundle

REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_a_pulled_repository_predicts_what_the_bundle_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "hub" / "models--lab--decoder"
    snapshot = model / "snapshots" / REVISION
    bundle.save(str(snapshot), toy_bundle())
    hub.write_card(str(snapshot), "hf://lab/decoder", {"top-1, 200-way": (0.4, 0.005)})
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(REVISION)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    eeg_uv_NCT = (10 * np.random.default_rng(1).standard_normal((5, 2, 10))).astype(np.float32)
    expected = eegdecode.load(str(snapshot)).predict_proba(eeg_uv_NCT)
    for address in ("hf://lab/decoder", f"hf://lab/decoder@{REVISION}"):
        np.testing.assert_array_equal(eegdecode.load(address).predict_proba(eeg_uv_NCT), expected)


def test_card_says_scores_with_chance_protocol_and_electrodes(tmp_path: Path) -> None:
    bundle.save(str(tmp_path), toy_bundle())
    before = bundle.load(str(tmp_path)).digest
    hub.write_card(str(tmp_path), scores={"top-1, 200-way": (0.4, 0.005)})
    read = ModelCard.load(tmp_path / "README.md")
    assert read.data.library_name == "eegdecode"
    result = read.data.eval_results[0]
    assert (result.metric_value, result.metric_name) == (0.4, "top-1, 200-way (chance 0.005)")
    assert "test concepts no decoder was trained on" in result.dataset_name
    assert "Oz, O1" in read.text
    assert "chance 0.005" in read.text
    # The card is for people: what is loaded is the same bundle.
    assert bundle.load(str(tmp_path)).digest == before


@pytest.mark.parametrize("by", ["concept", "picture", "run", "subject", "subject_concept"])
def test_card_of_every_division_names_the_people_it_knows(by: str) -> None:
    made = toy_bundle()
    fact = made.fact.model_copy(
        update={"fold": made.fact.fold.model_copy(update={"by": by}), "subjects": ("07", "anna")}
    )
    assert "(`subject=` of `predict`): 07, anna" in str(hub.card(replace(made, fact=fact), "x", {}))


@pytest.mark.parametrize("address", ["hf://lab", "hf://a/b/c", "lab/decoder"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"hf://owner/name"):
        hub.pull(address)
