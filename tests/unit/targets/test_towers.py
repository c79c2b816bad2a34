import csv
import hashlib
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from eegdecode.targets import open_tower


@pytest.fixture(scope="module")
def mobilenet(shared):
    return open_tower("timm:mobilenetv2_100", str(shared / "data" / "weights"))


@pytest.fixture(scope="module")
def samples(shared):
    folder = shared / "data" / "images" / "imagenet_samples"
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::20]
    assert len(rows) == 50
    images = [Image.open(folder / row["file"]).convert("RGB") for row in rows]
    return images, np.array([int(row["class_index"]) for row in rows])


def test_local_timm_weights_classify_real_photographs(mobilenet, samples):
    images, classes = samples
    # Measured over all 1000 samples: 0.876; without pad_type='same' it drops by 0.125.
    assert (mobilenet.logits(images).argmax(1) == classes).mean() >= 0.80


def test_features_are_those_before_the_classifier(mobilenet, samples):
    images, _ = samples
    z = mobilenet.embed(images[:4])
    weight, bias = mobilenet._net.classifier.weight.cpu().numpy(), mobilenet._net.classifier.bias.cpu().numpy()
    np.testing.assert_allclose(z @ weight.T + bias, mobilenet.logits(images[:4]), atol=1e-3)
    assert (z.shape, z.dtype) == ((4, 1280), np.float32)


def test_features_do_not_depend_on_the_batch(mobilenet, samples):
    images, _ = samples
    together = mobilenet.embed(images[:9])
    for k in (0, 3, 8):
        np.testing.assert_array_equal(mobilenet.embed(images[k : k + 1])[0], together[k])


def test_the_fact_names_the_very_weights(mobilenet, shared):
    path = shared / "data" / "weights" / "mobilenetv2_100" / "model.safetensors"
    assert mobilenet.fact.revision == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (mobilenet.fact.tower, mobilenet.fact.layer, mobilenet.fact.dim) == (
        "timm:mobilenetv2_100",
        "pre_logits",
        1280,
    )
    assert "0.501961" in mobilenet.fact.preprocessing


def test_missing_or_foreign_weights_are_refused(shared, tmp_path):
    with pytest.raises(ValueError, match=r"resnet18.*model\.safetensors"):
        open_tower("timm:resnet18", str(tmp_path))
    source = shared / "data" / "weights" / "mobilenetv2_100"
    (tmp_path / "mobilenetv2_100").mkdir()
    shutil.copy(source / "config.json", tmp_path / "mobilenetv2_100" / "config.json")
    save_file({"x": torch.zeros(2)}, tmp_path / "mobilenetv2_100" / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        open_tower("timm:mobilenetv2_100", str(tmp_path))


def test_open_clip_equals_its_own_encoder(open_clip_model, samples):
    import open_clip

    net, path = open_clip_model
    images = samples[0][:3]
    tower = open_tower(f"open_clip:eegdecode-tiny:{path}", "")
    transform = open_clip.image_transform(32, is_train=False)
    with torch.no_grad():
        expected = net.encode_image(torch.stack([transform(image) for image in images])).numpy()
    np.testing.assert_allclose(tower.embed(images), expected, atol=1e-5)
    np.testing.assert_allclose(tower.embed(images[1:2]), expected[1:2], atol=1e-5)
    np.testing.assert_array_equal(tower.embed(images), tower.embed(images))
    assert tower.fact.revision == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "Random" not in tower.fact.preprocessing
    assert " at 0x" not in tower.fact.preprocessing
    assert str(path) not in tower.fact.model_dump_json()


def test_unknown_open_clip_models_and_tags_are_refused(open_clip_model):
    with pytest.raises(ValueError, match="no model 'nobody'"):
        open_tower("open_clip:nobody:openai", "")
    with pytest.raises(ValueError, match="neither a file nor a pretrained tag"):
        open_tower("open_clip:eegdecode-tiny:openai", "")
