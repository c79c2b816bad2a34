"""Towers of words against the models' own encoders."""

import numpy as np
import pytest
import torch

from eegdecode.targets import open_tower

CONCEPTS = ["tench", "aircraft_carrier", "dog", "goldfish", "tench", "dog"]
PROMPTS = [f"this picture is {concept.replace('_', ' ')}" for concept in CONCEPTS]


def close(got, expected):
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max(), rtol=1e-6)


def test_open_clip_prompts_equal_its_own_text_encoder(open_clip_model, pictures):
    import open_clip

    net, path = open_clip_model
    tower = open_tower(f"text(prompt=this picture is {{concept}}):open_clip:eegdecode-tiny:{path}", "")
    with torch.no_grad():
        expected = net.encode_text(open_clip.get_tokenizer("eegdecode-tiny")(PROMPTS)).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    close(tower.embed(pictures, CONCEPTS), expected)
    close(tower.embed(pictures[1:2], CONCEPTS[1:2]), expected[1:2])
    assert (tower.fact.tower, tower.fact.layer) == ("text:open_clip:eegdecode-tiny", "text_embedding")
    assert "prompt 'this picture is {concept}'" in tower.fact.preprocessing
    assert "16 tokens" in tower.fact.preprocessing


def test_tokens_of_a_layer_can_be_the_target(open_clip_model, pictures):
    import open_clip

    net, path = open_clip_model
    kept = []
    handle = net.transformer.resblocks[0].register_forward_hook(lambda *io: kept.append(io[2]))
    with torch.no_grad():
        net.encode_text(open_clip.get_tokenizer("eegdecode-tiny")(PROMPTS))
    handle.remove()
    spec = f"text(prompt=this picture is {{concept}}):open_clip:eegdecode-tiny:{path}@transformer.resblocks.0"
    tower = open_tower(spec, "")
    assert tower.fact.shape == (16, 16)
    close(tower.embed(pictures, CONCEPTS), kept[0].numpy())
    with pytest.raises(ValueError, match="'mean' needs tokens of picture patches"):
        open_tower(spec.replace("@transformer.resblocks.0", "@mean(transformer.resblocks.0)"), "")


def test_transformers_prompts_equal_its_own_text_encoder(hub, clip, pictures):
    from transformers import AutoTokenizer

    tower = open_tower("text(prompt=this picture is {concept}):transformers:clip", str(hub))
    tokens = AutoTokenizer.from_pretrained(hub / "clip")(
        PROMPTS, padding="max_length", max_length=12, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = clip.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        expected = clip.text_projection(hidden.pooler_output).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    close(tower.embed(pictures, CONCEPTS), expected)
    # Longer neighbours change nothing.
    close(tower.embed(pictures[:1], CONCEPTS[:1]), expected[:1])


@pytest.mark.parametrize("concepts", [None, CONCEPTS[:3]])
def test_a_prompt_needs_every_picture_to_have_a_concept(hub, clip, pictures, concepts):
    tower = open_tower("text(prompt=a {concept}):transformers:clip", str(hub))
    with pytest.raises(ValueError, match="one concept for each of 6 pictures"):
        tower.embed(pictures, concepts)


def test_captions_are_blips_own_and_are_embedded_as_text(hub, blip, clip, pictures):
    from transformers import AutoImageProcessor, AutoTokenizer

    tower = open_tower("text(captions=blip):transformers:clip", str(hub))
    processor, tokenizer = (kind.from_pretrained(hub / "blip") for kind in (AutoImageProcessor, AutoTokenizer))
    expected = []
    for image in pictures:
        with torch.no_grad():
            written = blip.generate(
                **processor(images=image.convert("RGB"), return_tensors="pt"),
                max_new_tokens=30,
                do_sample=False,
                num_beams=1,
            )
        expected.append(tokenizer.decode(written[0], skip_special_tokens=True).strip())
    assert len(set(expected)) > 1
    assert any(expected)
    assert tower.captions(pictures) == expected
    words = AutoTokenizer.from_pretrained(hub / "clip")(
        expected, padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = clip.text_model(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
        close(tower.embed(pictures), clip.text_projection(hidden.pooler_output).numpy())
    assert len(tower.fact.revision.split("+")) == 2
    assert "caption of transformers:blip, greedy, at most 30 tokens" in tower.fact.preprocessing


def test_a_model_without_words_is_refused(hub, dinov2):
    with pytest.raises(ValueError, match="transformers:dinov2 must have a text side, it is a Dinov2Model"):
        open_tower("text(prompt=a {concept}):transformers:dinov2", str(hub))


def test_a_file_says_what_labels_mean(open_clip_model, pictures, tmp_path):
    """By the label in front of a line, whatever the order of lines and pictures; the digest of the names is kept."""
    _, path = open_clip_model
    named = {"n01440764": "tench", "n02690373": "airliner", "n02106662": "German_shepherd"}
    lines = [f"{label}\t{name}" for label, name in named.items()]
    (tmp_path / "classes.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "turned.txt").write_text("\n".join(reversed(lines)))
    shown = ["n02106662", "n01440764", "n02106662", "n02690373"]
    inner = f"open_clip:eegdecode-tiny:{path}"
    plain = open_tower(f"text(prompt=a {{concept}}):{inner}", "")
    expected = plain.embed(pictures[:4], [named[label] for label in shown])
    towers = [
        open_tower(f"text(prompt=a {{concept}}; classes={tmp_path / name}):{inner}", "")
        for name in ("classes.txt", "turned.txt")
    ]
    for tower in towers:
        np.testing.assert_array_equal(tower.embed(pictures[:4], shown), expected)
    assert towers[0].fact == towers[1].fact != plain.fact
    with pytest.raises(
        ValueError, match=r"must have a line 'n09999999 NAME', its labels are \['n01440764', 'n02106662'"
    ):
        towers[0].embed(pictures[:1], ["n09999999"])
    with pytest.raises(ValueError, match="'classes' go with a prompt"):
        open_tower(f"text(captions=x; classes={tmp_path / 'classes.txt'}):{inner}", "")
