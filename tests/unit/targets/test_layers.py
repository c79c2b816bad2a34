"""Any named layer of timm, open_clip and transformers, against calling the module by hand."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor

from eegdecode.targets import open_tower


def by_hand(net, module, forward, pixels):
    """What a module gives in one pass, through a plain hook."""
    kept = []
    handle = dict(net.named_modules())[module].register_forward_hook(lambda *io: kept.append(io[2]))
    with torch.no_grad():
        forward(pixels)
    handle.remove()
    assert len(kept) == 1
    return (kept[0] if isinstance(kept[0], torch.Tensor) else kept[0][0]).numpy()


@pytest.fixture(scope="module")
def pixels(hub, dinov2, pictures):
    processor = AutoImageProcessor.from_pretrained(hub / "dinov2")
    images = [image.convert("RGB") for image in pictures]
    return torch.cat([processor(images=image, return_tensors="pt")["pixel_values"] for image in images])


def close(got, expected):
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max(), "it should depend on the picture"
    np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max(), rtol=1e-6)


def test_dinov2_pooled_output(hub, dinov2, pictures, pixels):
    tower = open_tower("transformers:dinov2", str(hub))
    with torch.no_grad():
        close(tower.embed(pictures), dinov2(pixel_values=pixels).pooler_output.numpy())
    assert (tower.fact.shape, tower.fact.dim, tower.fact.view) == ((32,), 32, "")


@pytest.mark.parametrize("layer", ["encoder.layer.0", "encoder.layer.1.mlp"])
def test_a_layer_whole_token_and_mean(hub, dinov2, pictures, pixels, layer):
    expected = by_hand(dinov2, layer, lambda x: dinov2(pixel_values=x), pixels)
    assert expected.shape == (6, 5, 32)
    tower = open_tower(f"transformers:dinov2@{layer}", str(hub))
    close(tower.embed(pictures), expected)
    assert (tower.fact.shape, tower.fact.dim, tower.fact.layer) == ((5, 32), 160, layer)
    close(open_tower(f"transformers:dinov2@token({layer})", str(hub)).embed(pictures), expected[:, 0])
    close(open_tower(f"transformers:dinov2@mean({layer})", str(hub)).embed(pictures), expected[:, 1:].mean(axis=1))


def test_registers_are_no_patches(hub, registers, pictures, pixels):
    layer = "encoder.layer.1"
    expected = by_hand(registers, layer, lambda x: registers(pixel_values=x), pixels)
    assert expected.shape == (6, 1 + 4 + 4, 32)
    got = open_tower(f"transformers:registers@mean({layer})", str(hub)).embed(pictures)
    close(got, expected[:, 5:].mean(axis=1))


def test_several_layers_of_an_internvit_at_once(hub, internvit, pictures, pixels):
    tower = open_tower("transformers:internvit@token(encoder.layer.2,encoder.layer.0)", str(hub))
    layers = [
        by_hand(internvit, f"encoder.layer.{k}", lambda x: internvit(pixel_values=x), pixels)[:, 0] for k in (2, 0)
    ]
    assert np.abs(layers[0] - layers[1]).max() > 0.01
    close(tower.embed(pictures), np.stack(layers, axis=1))
    assert (tower.fact.shape, tower.fact.dim) == ((2, 32), 64)
    assert tower.fact.layer == "token(encoder.layer.2,encoder.layer.0)"


def test_a_model_without_a_pooled_output_asks_for_a_layer(hub, internvit):
    with pytest.raises(ValueError, match="no pooled output; name a layer"):
        open_tower("transformers:internvit", str(hub))


def test_the_image_side_of_a_clip(hub, clip, pictures, pixels):
    with torch.no_grad():
        hidden = clip.vision_model(pixel_values=pixels)
        expected = clip.visual_projection(hidden.pooler_output).numpy()
    close(open_tower("transformers:clip", str(hub)).embed(pictures), expected)
    layer = "vision_model.encoder.layers.0"
    expected = by_hand(clip, layer, lambda x: clip.get_image_features(pixel_values=x), pixels)
    close(open_tower(f"transformers:clip@token({layer})", str(hub)).embed(pictures), expected[:, 0])


def test_open_clip_layers(open_clip_model, pictures):
    import open_clip

    net, path = open_clip_model
    transform = open_clip.image_transform(32, is_train=False)
    images = torch.stack([transform(image) for image in pictures])
    layer = "visual.transformer.resblocks.1"
    expected = by_hand(net, layer, net.encode_image, images)
    assert expected.shape == (6, 17, 32)
    spec = f"open_clip:eegdecode-tiny:{path}"
    close(open_tower(f"{spec}@token({layer})", "").embed(pictures), expected[:, 0])
    close(open_tower(f"{spec}@mean({layer})", "").embed(pictures), expected[:, 1:].mean(axis=1))
    assert open_tower(f"{spec}@{layer}", "").fact.shape == (17, 32)
    # The weights may also be named below weights_uri, so that the spec holds no path.
    close(
        open_tower(f"open_clip:eegdecode-tiny:{path.name}@token({layer})", str(path.parent)).embed(pictures),
        expected[:, 0],
    )


def save_timm(folder, name, args, facts):
    """A tiny timm model as timm publishes one: pretrained_cfg within config.json."""
    import timm
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=7, **args)
    config = {"architecture": name, "num_classes": 7, "model_args": args, "pretrained_cfg": facts}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    return net.eval()


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timm") / "tiny"
    args = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
    facts = {
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "input_size": [3, 32, 32],
        "crop_pct": 0.8,
        "interpolation": "bilinear",
    }
    return save_timm(folder, "vit_tiny_patch16_224", args, facts), folder


def test_timm_layers_and_its_own_preprocessing(timm_folder, pictures):
    import timm

    net, folder = timm_folder
    transform = timm.data.create_transform(
        (3, 32, 32), is_training=False, mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=0.8, interpolation="bilinear"
    )
    square = [image.convert("RGB") for image in pictures if image.width == image.height]
    images = torch.stack([transform(image) for image in square])
    expected = by_hand(net, "blocks.0", net, images)
    tower = open_tower(f"timm:{folder}@token(blocks.0)", "")
    close(tower.embed(square), expected[:, 0])
    assert tower.fact.tower == "timm:tiny"
    assert "shorter side to 40 (Pillow bilinear), centre crop 32" in tower.fact.preprocessing
    close(
        open_tower("timm:tiny@mean(blocks.1)", str(folder.parent)).embed(square),
        by_hand(net, "blocks.1", net, images)[:, 1:].mean(1),
    )


def test_maps_with_the_channels_last_and_a_squeezed_picture(tmp_path, pictures):
    import timm

    args = {"img_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    facts = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 32, 32], "crop_pct": 1.0, "crop_mode": "squash"}
    net = save_timm(tmp_path / "swin", "swin_tiny_patch4_window7_224", args, facts)
    transform = timm.data.create_transform(
        (3, 32, 32), is_training=False, mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0, crop_mode="squash",
        interpolation="bicubic",
    )  # fmt: skip
    images = torch.stack([transform(image.convert("RGB")) for image in pictures])
    expected = by_hand(net, "layers.1", net, images)
    assert expected.shape == (6, 4, 4, 32)
    tower = open_tower("timm:swin@mean(layers.1)", str(tmp_path))
    close(tower.embed(pictures), expected.mean(axis=(1, 2)))
    assert "RGB, squeezed to 32 (Pillow bicubic)" in tower.fact.preprocessing


def test_a_map_is_averaged_over_its_places(shared, pictures):
    weights = str(shared / "data" / "weights")
    whole = open_tower("timm:mobilenetv2_100@blocks.4", weights)
    assert whole.fact.shape == (96, 14, 14)
    map_NCHW = whole.embed(pictures[:2])
    got = open_tower("timm:mobilenetv2_100@mean(blocks.4)", weights).embed(pictures[:2])
    np.testing.assert_allclose(got, map_NCHW.mean(axis=(2, 3)), atol=1e-5)
    by_module = by_hand(
        whole._net.cpu(), "blocks.4", whole._net, torch.stack([whole._prepare(p) for p in pictures[:2]])
    )
    np.testing.assert_allclose(map_NCHW, by_module, atol=1e-4)
    with pytest.raises(ValueError, match="'token' needs tokens of picture patches"):
        open_tower("timm:mobilenetv2_100@token(blocks.4)", weights)


@pytest.mark.parametrize(
    "spec", ["transformers:dinov2@token(encoder.layer.1)", "transformers:clip", "transformers:dinov2"]
)
def test_an_embedding_is_the_same_alone_and_in_company(hub, dinov2, clip, pictures, spec):
    tower = open_tower(spec, str(hub))
    alone = np.concatenate([tower.embed([image]) for image in pictures])
    close(tower.embed(pictures), alone)
    close(tower.embed(pictures[::-1])[::-1], alone)
    np.testing.assert_array_equal(tower.embed(pictures), tower.embed(pictures))
    assert tower.embed([]).shape == (0, *tower.fact.shape)


def test_unknown_layers_are_refused_with_near_names(hub, dinov2):
    with pytest.raises(ValueError, match=r"no layer 'encoder\.layers\.1'.*encoder\.layer\.1"):
        open_tower("transformers:dinov2@encoder.layers.1", str(hub))


def test_layers_of_two_shapes_are_refused(hub, dinov2):
    with pytest.raises(ValueError, match=r"of one shape.*encoder\.layer\.1\.mlp\.fc1 \(5, 128\)"):
        open_tower("transformers:dinov2@encoder.layer.0,encoder.layer.1.mlp.fc1", str(hub))


def test_hooks_are_taken_off_again(hub, dinov2, pictures):
    tower = open_tower("transformers:dinov2@encoder.layer.0", str(hub))
    tower.embed(pictures)
    assert not any(module._forward_hooks for module in tower._net.modules())


def test_the_fact_names_weights_and_every_number_and_no_folder(hub, dinov2):
    fact = open_tower("transformers:dinov2", str(hub)).fact
    by_path = open_tower(f"transformers:{hub / 'dinov2'}", "").fact
    assert fact == by_path
    assert str(hub) not in fact.model_dump_json()
    assert fact.tower == "transformers:dinov2"
    assert len(fact.revision) == 64
    for number in ('"height": 28', "0.48145466", "0.26862954", '"resample": 3', "0.00392156862745098"):
        assert number in fact.preprocessing


def test_the_revision_is_that_of_the_weights(hub, dinov2, tmp_path):
    before = open_tower("transformers:dinov2", str(hub)).fact
    with torch.no_grad():
        dinov2.layernorm.bias[0] += 1
        dinov2.save_pretrained(tmp_path / "dinov2")
        dinov2.layernorm.bias[0] -= 1
    processor = (hub / "dinov2" / "preprocessor_config.json").read_bytes()
    (tmp_path / "dinov2" / "preprocessor_config.json").write_bytes(processor)
    after = open_tower("transformers:dinov2", str(tmp_path)).fact
    assert after.revision != before.revision
    assert after.model_copy(update={"revision": before.revision}) == before


def test_weights_that_are_not_in_the_files_are_refused(hub, dinov2, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "cut"
    dinov2.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes((hub / "dinov2" / "preprocessor_config.json").read_bytes())
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.norm1.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 are missing, such as 'encoder\.layer\.1\.norm1\.weight'"):
        open_tower("transformers:cut", str(tmp_path))


def test_pickles_and_code_are_never_run(hub, dinov2, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((hub / "dinov2" / name).read_bytes())
    torch.save(dinov2.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="can not load 'pickled'"):
        open_tower("transformers:pickled", str(tmp_path))

    coded = tmp_path / "coded"
    coded.mkdir()
    marker = tmp_path / "ran"
    (coded / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    (coded / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}})
    )
    with pytest.raises(ValueError, match="can not load 'coded'"):
        open_tower("transformers:coded", str(tmp_path))
    assert not marker.exists()


def test_a_model_that_is_not_there_is_refused(hub):
    with pytest.raises(ValueError, match=r"'nobody' must lie at .*nobody"):
        open_tower("transformers:nobody", str(hub))
    with pytest.raises(ValueError, match="nothing lies at '/no/where'"):
        open_tower("transformers:/no/where", "")


def test_a_pooling_layer_without_weights_is_refused_only_where_it_is_read(tmp_path, hub, dinov2, pictures):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=28, patch_size=14
    )
    net = ViTModel(config, add_pooling_layer=False).eval()
    net.save_pretrained(tmp_path / "vit")
    processor = (hub / "dinov2" / "preprocessor_config.json").read_bytes()
    (tmp_path / "vit" / "preprocessor_config.json").write_bytes(processor)
    with pytest.raises(ValueError, match=r"are missing, such as 'pooler\.dense\.bias'"):
        open_tower("transformers:vit", str(tmp_path))
    first, second = (open_tower("transformers:vit@token(layernorm)", str(tmp_path)) for _ in range(2))
    np.testing.assert_array_equal(first.embed(pictures), second.embed(pictures))
    # The pooling layer that is not read is random: it may not get into the revision.
    assert first.fact == second.fact
