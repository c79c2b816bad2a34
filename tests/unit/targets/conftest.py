"""Real model classes at toy size with random weights, saved as their libraries save them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

WORDS = ["a", "photo", "of", "this", "picture", "is", "tench", "goldfish", "aircraft", "carrier", "dog"]


@pytest.fixture(scope="session")
def pictures():
    """Smooth pictures of several sizes and modes."""
    rng = np.random.default_rng(0)
    sizes = [(40, 40), (64, 48), (30, 50), (224, 224), (28, 28)]
    images = [
        Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for size in sizes
    ]
    return [*images, images[0].convert("L")]


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """A folder of tiny models; `hub / name` is what `from_pretrained` takes."""
    return tmp_path_factory.mktemp("hub")


def lively(net, gain=4):
    """The same network with larger weights: at their first size what comes out hardly depends on the picture."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(gain)
    return net


def save_words(folder, eos="<eos>"):
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: k for k, word in enumerate(["<pad>", "<unk>", "<bos>", *WORDS, eos])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<bos> $A {eos}", special_tokens=[("<bos>", 2), (eos, vocabulary[eos])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token=eos
    ).save_pretrained(folder)
    return vocabulary


def save_processor(folder, px=28):
    from transformers import CLIPImageProcessor

    CLIPImageProcessor(size={"shortest_edge": px}, crop_size={"height": px, "width": px}).save_pretrained(folder)


@pytest.fixture(scope="session")
def dinov2(hub):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(1)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14)
    net = Dinov2Model(config).eval()
    lively(net).save_pretrained(hub / "dinov2")
    save_processor(hub / "dinov2")
    return net


@pytest.fixture(scope="session")
def registers(hub):
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(2)
    config = Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, num_register_tokens=4
    )
    net = Dinov2WithRegistersModel(config).eval()
    lively(net).save_pretrained(hub / "registers")
    save_processor(hub / "registers")
    return net


@pytest.fixture(scope="session")
def internvit(hub):
    from transformers import InternVLVisionConfig, InternVLVisionModel

    torch.manual_seed(3)
    config = InternVLVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=28, patch_size=14
    )
    net = InternVLVisionModel(config).eval()
    lively(net).save_pretrained(hub / "internvit")
    save_processor(hub / "internvit")
    return net


@pytest.fixture(scope="session")
def clip(hub):
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(4)
    vocabulary = save_words(hub / "clip")
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 12, "vocab_size": len(vocabulary), "eos_token_id": vocabulary["<eos>"],
        "bos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    net = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    lively(net).save_pretrained(hub / "clip")
    save_processor(hub / "clip")
    return net


@pytest.fixture(scope="session")
def blip(hub):
    from transformers import BlipConfig, BlipForConditionalGeneration

    torch.manual_seed(1)
    vocabulary = save_words(hub / "blip")
    text = {
        "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 40, "vocab_size": len(vocabulary), "bos_token_id": 2,
        "eos_token_id": vocabulary["<eos>"], "sep_token_id": vocabulary["<eos>"], "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14, "initializer_range": 0.1,
    }  # fmt: skip
    net = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "crossattention" in name and parameter.ndim > 1:
                parameter.mul_(10)
    lively(net).save_pretrained(hub / "blip")
    save_processor(hub / "blip")
    return net


@pytest.fixture(scope="session")
def open_clip_model(tmp_path_factory):
    """A real open_clip model of toy size: (net, weights file)."""
    import open_clip

    folder = tmp_path_factory.mktemp("open_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (folder / "eegdecode-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "eegdecode-tiny.json")
    torch.manual_seed(0)
    net = open_clip.create_model("eegdecode-tiny")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "weights.safetensors")
    return net.eval(), folder / "weights.safetensors"
