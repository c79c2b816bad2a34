"""Teachers' probabilities against the definition, and on real photographs."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from eegdecode.targets import open_tower

CLASSES = ["tench", "goldfish", "aircraft_carrier", "dog"]


def test_a_real_classifier_names_most_photographs(shared):
    folder = shared / "data" / "images" / "imagenet_samples"
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::17]
    assert len(rows) == 59
    images = [Image.open(folder / row["file"]).convert("RGB") for row in rows]
    teacher = open_tower("teacher:timm:mobilenetv2_100", str(shared / "data" / "weights"))
    probability_NK = teacher.embed(images)
    # Measured over all 1000 pictures: 0.876.
    assert (probability_NK.argmax(1) == [int(row["class_index"]) for row in rows]).mean() > 0.75
    assert (teacher.fact.tower, teacher.fact.layer, teacher.fact.shape) == (
        "teacher:timm:mobilenetv2_100",
        "softmax",
        (1000,),
    )
    features = open_tower("timm:mobilenetv2_100", str(shared / "data" / "weights"))
    weight, bias = (getattr(features._net.classifier, k).double().cpu().numpy() for k in ("weight", "bias"))
    logits = features.embed(images[:4]).astype(float) @ weight.T + bias
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probability_NK[:4], power / power.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(probability_NK.sum(axis=1), 1, atol=1e-5)


def hand_made(net_image, net_text, scale):
    image, text = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (net_image, net_text))
    power = np.exp(scale * image.astype(float) @ text.T.astype(float))
    return power / power.sum(axis=1, keepdims=True)


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(CLASSES) + "\n")
    return path


def test_zero_shot_with_open_clip_equals_the_definition(open_clip_model, pictures, classes):
    import open_clip

    net, path = open_clip_model
    teacher = open_tower(
        f"teacher(classes={classes}; prompt=an image of a {{concept}}):open_clip:eegdecode-tiny:{path}", ""
    )
    transform = open_clip.image_transform(32, is_train=False)
    prompts = [f"an image of a {name.replace('_', ' ')}" for name in CLASSES]
    with torch.no_grad():
        image = net.encode_image(torch.stack([transform(picture) for picture in pictures])).numpy()
        text = net.encode_text(open_clip.get_tokenizer("eegdecode-tiny")(prompts)).numpy()
    expected = hand_made(image, text, net.logit_scale.exp().item())
    got = teacher.embed(pictures)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)
    assert np.ptp(expected, axis=1).min() > 1e-3
    assert (teacher.fact.shape, teacher.fact.dim) == ((4,), 4)
    assert "prompt 'an image of a {concept}'" in teacher.fact.preprocessing
    assert str(path.parent) not in teacher.fact.model_dump_json()
    assert str(classes) not in teacher.fact.model_dump_json()


def test_zero_shot_with_transformers_equals_its_own_logits(hub, clip, pictures, classes):
    from transformers import AutoImageProcessor, AutoTokenizer

    teacher = open_tower(f"teacher(classes={classes}):transformers:clip", str(hub))
    prompts = [f"a photo of a {name.replace('_', ' ')}" for name in CLASSES]
    tokens = AutoTokenizer.from_pretrained(hub / "clip")(
        prompts, padding="max_length", max_length=12, return_tensors="pt"
    )
    processor = AutoImageProcessor.from_pretrained(hub / "clip")
    pixels = torch.cat([processor(images=p.convert("RGB"), return_tensors="pt")["pixel_values"] for p in pictures])
    with torch.no_grad():
        out = clip(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    np.testing.assert_allclose(teacher.embed(pictures), out.logits_per_image.softmax(dim=1).numpy(), atol=1e-5)


def test_other_classes_are_another_target(hub, clip, classes):
    spec = f"teacher(classes={classes}):transformers:clip"
    before = open_tower(spec, str(hub)).fact
    classes.write_text("\n".join(CLASSES[::-1]))
    assert open_tower(spec, str(hub)).fact != before


def test_classes_that_repeat_are_refused(hub, clip, classes):
    classes.write_text("tench\ntench\n")
    with pytest.raises(ValueError, match="each once, got 2 lines"):
        open_tower(f"teacher(classes={classes}):transformers:clip", str(hub))


def test_a_teacher_without_words_is_refused(hub, dinov2, classes):
    with pytest.raises(ValueError, match="must have a text side, 'dinov2' is a Dinov2Model"):
        open_tower(f"teacher(classes={classes}):transformers:dinov2", str(hub))


def test_a_teacher_reads_the_names_behind_labels(open_clip_model, pictures, classes, tmp_path):
    _, path = open_clip_model
    labelled = tmp_path / "labelled.txt"
    labelled.write_text("".join(f"n0000000{k} {name}\n" for k, name in enumerate(CLASSES)))
    plain, other = (
        open_tower(f"teacher(classes={file}):open_clip:eegdecode-tiny:{path}", "") for file in (classes, labelled)
    )
    np.testing.assert_array_equal(other.embed(pictures), plain.embed(pictures))
    assert other.fact == plain.fact
