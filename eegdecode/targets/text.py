"""Towers of words: what a text encoder makes of a picture's concept, or of a caption of the picture.

ATM predicts "This picture is {concept}", NICE's kin "a photo of a {concept}"; NeuroImagen the caption that BLIP writes.
Shape letters: N text, S token, D embedding.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eegdecode.batch import TargetFact
from eegdecode.targets.classes import read_classes
from eegdecode.targets.frozen import one_by_one, probe
from eegdecode.targets.layers import Tap
from eegdecode.targets.spec import Layers, Spec
from eegdecode.targets.towers import (
    Loaded,
    describe_processor,
    load_open_clip,
    load_transformers,
    open_processor,
    pixels,
    pooled,
    shape_facts,
)
from eegdecode.targets.words import check_concepts

SLOT = "{concept}"
CAPTION_TOKENS = 30
"""Longest caption, in new tokens; greedy, so that a picture has one caption."""


class TextEncoder(Protocol):
    """A frozen map from text to embeddings; a text's embedding depends on that text alone."""

    loaded: Loaded
    layer: str
    preprocessing: str
    shape: tuple[int, ...]

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Return the embeddings, float32 (N, *shape), not normalised."""


class OpenClipText:
    """Text side of an open_clip model, with the tokenizer that belongs to it."""

    def __init__(self, loaded: Loaded, layers: Layers | None = None) -> None:
        import open_clip

        self.loaded = loaded
        self._tokenizer = open_clip.get_tokenizer(loaded.source)
        self._run = Tap(loaded.net, layers, loaded.net.encode_text, None) if layers else loaded.net.encode_text
        self.layer = str(layers or "text_embedding")
        self.preprocessing = f"{type(self._tokenizer).__name__} of open_clip, {self._tokenizer.context_length} tokens"
        self.shape = probe(self._prepare, self._run, "a")

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Return the embeddings, float32 (N, *shape), not normalised."""
        return one_by_one(texts, self._prepare, self._run, self.shape)

    def _prepare(self, text: str) -> torch.Tensor:
        tokens: torch.Tensor = self._tokenizer([text])
        return tokens[0]


class TransformersText:
    """Text side of a transformers model: CLIP's projection, else the pooled output, or layers on the way."""

    def __init__(self, loaded: Loaded, layers: Layers | None = None) -> None:
        self.loaded = loaded
        config = getattr(loaded.net.config, "text_config", loaded.net.config)
        if not hasattr(config, "max_position_embeddings"):
            raise ValueError(f"{loaded.tower} must have a text side, it is a {type(loaded.net).__name__}.")
        # Always padded to the same length: a text must not feel how long its neighbours are.
        self._n_tokens = int(config.max_position_embeddings)
        self._tokenizer = open_tokenizer(loaded.source)
        self._run = Tap(loaded.net, layers, self._forward, None) if layers else self._features
        self.layer = str(layers or "text_features")
        self.preprocessing = f"{type(self._tokenizer).__name__}, {self._n_tokens} tokens"
        self.shape = probe(self._prepare, self._run, "a")

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Return the embeddings, float32 (N, *shape), not normalised."""
        return one_by_one(texts, self._prepare, self._run, self.shape)

    def _prepare(self, text: str) -> torch.Tensor:
        tokens = self._tokenizer(
            text, padding="max_length", truncation=True, max_length=self._n_tokens, return_tensors="pt"
        )
        return torch.cat([tokens["input_ids"], tokens["attention_mask"]])

    def _forward(self, tokens_N2S: torch.Tensor) -> Any:
        forward = getattr(self.loaded.net, "get_text_features", self.loaded.net)
        return forward(input_ids=tokens_N2S[:, 0], attention_mask=tokens_N2S[:, 1])

    def _features(self, tokens_N2S: torch.Tensor) -> torch.Tensor:
        return pooled(self._forward(tokens_N2S), type(self.loaded.net).__name__)


class PromptTower:
    """Embedding of a prompt with the picture's concept in it; the picture itself is not looked at.

    Parameters
    ----------
    names
        What the prompt calls a concept, where its label is no word; the concept itself if None.
    """

    def __init__(self, encoder: TextEncoder, prompt: str, names: Mapping[str, str] | None = None) -> None:
        check_prompt(prompt)
        self._encoder, self._prompt, self._names = encoder, prompt, names
        what = f"prompt '{prompt}'"
        if names is not None:
            told = "\n".join(f"{label} {name}" for label, name in sorted(names.items()))
            what += f" | {len(names)} classes {hashlib.sha256(told.encode()).hexdigest()}"
        self.fact = _text_fact(encoder, what, encoder.loaded.revision)

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return the embeddings, float32 (N, *shape), not normalised.

        Raises
        ------
        ValueError
            No concept for each picture, or one without a name.
        """
        asked = check_concepts(self.fact.tower, images, concepts)
        prompts = [fill(self._prompt, self._name(concept)) for concept in asked]
        unique, back = np.unique(np.array(prompts, dtype=str), return_inverse=True)
        return self._encoder.encode([str(prompt) for prompt in unique])[back]

    def _name(self, concept: str) -> str:
        if self._names is None:
            return concept
        if concept not in self._names:
            raise ValueError(
                f"targets.tower: the file of classes must have a line '{concept} NAME', its labels are "
                f"{sorted(self._names)[:3]} and {max(0, len(self._names) - 3)} more."
            )
        return self._names[concept]


class CaptionTower:
    """Embedding of the caption that BLIP (Li et al. 2022) writes for a picture."""

    def __init__(self, encoder: TextEncoder, captioner: "Captioner") -> None:
        self._encoder, self._captioner = encoder, captioner
        self.fact = _text_fact(
            encoder,
            f"caption of {captioner.loaded.tower}, greedy, at most {CAPTION_TOKENS} tokens, {captioner.preprocessing}",
            f"{captioner.loaded.revision}+{encoder.loaded.revision}",
        )

    def captions(self, images: list[Image.Image]) -> list[str]:
        """Return what is embedded."""
        return self._captioner.captions(images)

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return the embeddings, float32 (N, *shape), not normalised."""
        return self._encoder.encode(self.captions(images))


class Captioner:
    """BLIP, writing one caption a picture without a prompt."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._processor = open_processor(loaded.source)
        self._tokenizer = open_tokenizer(loaded.source)
        self.preprocessing = describe_processor(self._processor)

    def captions(self, images: list[Image.Image]) -> list[str]:
        """Return a caption per picture."""
        # One more than is written: BLIP gives its first token, the beginning of a sentence, back with the new ones.
        width = CAPTION_TOKENS + 1
        token_NS = one_by_one(images, lambda image: pixels(self._processor, image), self._write, (width,))
        # Token numbers pass through float32 unharmed: they are far below 2^24.
        return [text.strip() for text in self._tokenizer.batch_decode(token_NS.astype(int), skip_special_tokens=True)]

    def _write(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        # do_sample and num_beams are given, so that a generation_config beside the weights can not change them.
        token_NS = self.loaded.net.generate(
            pixel_values=images_NCHW, max_new_tokens=CAPTION_TOKENS, do_sample=False, num_beams=1
        )
        missing = CAPTION_TOKENS + 1 - token_NS.shape[1]
        assert missing >= 0, f"{token_NS.shape[1]} tokens came back"
        return torch.nn.functional.pad(token_NS, (0, missing), value=int(self._tokenizer.pad_token_id))


def open_text(spec: Spec, weights_uri: str) -> PromptTower | CaptionTower:
    """Make the tower of a ``text(...):`` spec."""
    assert spec.inner is not None
    if "prompt" in spec.options:
        check_prompt(spec.options["prompt"])
        names = read_classes(spec.options["classes"], weights_uri) if "classes" in spec.options else None
        return PromptTower(open_encoder(spec.inner, weights_uri), spec.options["prompt"], names)
    if "classes" in spec.options:
        raise ValueError("targets.tower: 'classes' go with a prompt; a caption names what it sees. Leave them out.")
    captioner = Captioner(load_transformers(spec.options["captions"], weights_uri, kind="BlipForConditionalGeneration"))
    return CaptionTower(open_encoder(spec.inner, weights_uri), captioner)


def open_encoder(spec: Spec, weights_uri: str) -> TextEncoder:
    """Make the text encoder of an ``open_clip:`` or ``transformers:`` spec."""
    if spec.kind == "open_clip":
        return OpenClipText(load_open_clip(spec.model, weights_uri)[0], spec.layers)
    return TransformersText(load_transformers(spec.model, weights_uri, spec.layers), spec.layers)


def open_tokenizer(source: str) -> Any:
    """Return the tokenizer that lies beside a transformers model."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"targets.tower: '{source}' needs its tokenizer files: {error}") from error


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that does not name the concept exactly once."""
    if prompt.count(SLOT) != 1 or "{" in prompt.replace(SLOT, "") or "}" in prompt.replace(SLOT, ""):
        raise ValueError(f"targets.tower: a prompt must hold {SLOT} once and no other brace, got '{prompt}'.")


def fill(prompt: str, concept: str) -> str:
    """Return the prompt with the concept in words."""
    return prompt.replace(SLOT, concept.replace("_", " "))


def _text_fact(encoder: TextEncoder, what: str, revision: str) -> TargetFact:
    return TargetFact(
        tower=f"text:{encoder.loaded.tower}",
        layer=encoder.layer,
        revision=revision,
        preprocessing=f"{what} | {encoder.preprocessing}",
        **shape_facts(encoder.shape),
    )
