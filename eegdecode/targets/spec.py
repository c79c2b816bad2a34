"""The grammar of `targets.tower`: one line of text that says what is made of a picture, taken apart and checked.

Only the form is checked here, with nothing heavy imported; names and files are checked where a tower is opened.
"""

import re
from dataclasses import dataclass
from typing import Literal, cast

Readout = Literal["whole", "token", "mean"]


@dataclass(frozen=True)
class Layers:
    """Modules of a network by the names of `named_modules`, and what is kept of their outputs."""

    names: tuple[str, ...]
    readout: Readout = "whole"

    def __str__(self) -> str:
        joined = ",".join(self.names)
        return joined if self.readout == "whole" else f"{self.readout}({joined})"


@dataclass(frozen=True)
class Call:
    """A name with options."""

    name: str
    options: dict[str, str]


@dataclass(frozen=True)
class Spec:
    """A spec taken apart; `model` is what stands between the kind and the layers."""

    kind: str
    options: dict[str, str]
    model: str
    layers: Layers | None
    views: tuple[Call, ...]
    inner: "Spec | None" = None
    """For `text` and `teacher`: `model` as a spec of its own, with the layers."""


@dataclass(frozen=True)
class Kind:
    """What a kind of tower admits, and where it is made.

    Attributes
    ----------
    form
        How it is written.
    module, opener
        The function that makes the tower of (Spec, weights_uri).
    model
        Pattern that the model matches.
    options, needed
        Options it knows, and those of which exactly one must be given.
    layers
        Whether layers can be named.
    inner
        Kinds its model may be of.
    """

    form: str
    module: str
    opener: str
    model: str = ".+"
    options: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    layers: bool = False
    inner: tuple[str, ...] = ()


KINDS = {
    "gabor": Kind("gabor", "gabor", "open_gabor", model=""),
    "gabor_words": Kind("gabor_words", "words", "open_gabor_words", model=""),
    "pyramid": Kind("pyramid", "pyramid", "open_pyramid", model=""),
    "pyramid_words": Kind("pyramid_words", "words", "open_pyramid_words", model=""),
    "timm": Kind("timm:<model>", "towers", "open_timm", layers=True),
    "open_clip": Kind(
        "open_clip:<model>:<pretrained tag or local path>",
        "towers",
        "open_open_clip",
        model="[^:]+:.+",
        layers=True,
    ),
    "transformers": Kind("transformers:<id or folder>", "towers", "open_transformers", layers=True),
    "text": Kind(
        "text(prompt=<... {concept} ...>; classes=<file>):<tower> or text(captions=<BLIP id or folder>):<tower>",
        "text",
        "open_text",
        options=("prompt", "captions", "classes"),
        needed=("prompt", "captions"),
        layers=True,
        inner=("open_clip", "transformers"),
    ),
    "vae": Kind("vae(px=<side>):<id or folder>", "latents", "open_vae", options=("px", "subfolder", "range")),
    "saliency": Kind("saliency:spectral_residual or saliency:<id or folder>", "saliency", "open_saliency"),
    "teacher": Kind(
        "teacher:timm:<model> or teacher(classes=<file>; prompt=<... {concept} ...>):<open_clip or transformers tower>",
        "teacher",
        "open_teacher",
        options=("classes", "prompt"),
        inner=("timm", "open_clip", "transformers"),
    ),
}

# Options end at a bracket that the rest of the grammar can follow, so that a prompt may hold brackets of its own.
_HEAD = re.compile(r"(?P<kind>\w+)(?:\((?P<options>.*?)\)(?=[:@#]|$))?(?P<rest>.*)", re.DOTALL)
# Layers and views hold no slash: an @ or # before one belongs to a path.
_REST = re.compile(r"(?::(?P<model>.*?))?(?:@(?P<layers>[^@#/]*))?(?:#(?P<views>[^@#/]*))?", re.DOTALL)
_LAYERS = re.compile(r"(?P<readout>token|mean)\((?P<inside>[^()]+)\)|(?P<bare>[^()]+)")
_CALL = re.compile(r"(?P<name>\w+)(?:\((?P<options>[^()]*)\))?")


def parse(text: str) -> Spec:
    """Take a spec apart.

    Raises
    ------
    ValueError
        A text of no known form: what must hold, what came.
    """
    head = _HEAD.fullmatch(text)
    rest = _REST.fullmatch(head["rest"]) if head else None
    if head is None or rest is None or head["kind"] not in KINDS:
        raise _form(text)
    kind = KINDS[head["kind"]]
    model = rest["model"] or ""
    if not re.fullmatch(kind.model, model):
        raise _form(text, kind)
    options = parse_options(head["options"], kind.options, f"targets.tower '{text}'")
    if kind.needed and sum(name in options for name in kind.needed) != 1:
        raise ValueError(f"targets.tower '{text}' needs exactly one of {' and '.join(kind.needed)}, as in {kind.form}.")
    layers = _parse_layers(rest["layers"], text) if rest["layers"] is not None else None
    if layers and not kind.layers:
        raise ValueError(f"targets.tower '{text}': '{head['kind']}' has no layers to choose; leave out '@{layers}'.")
    views = tuple(parse_views(rest["views"])) if rest["views"] is not None else ()
    if views and "prompt" in options and head["kind"] == "text":
        raise ValueError(
            f"targets.tower '{text}': a prompt of the concept does not see the picture; leave the view out."
        )
    inner = parse(model + (f"@{layers}" if layers else "")) if kind.inner else None
    if inner and (inner.kind not in kind.inner or inner.options):
        raise _form(text, kind)
    return Spec(head["kind"], options, model, layers, views, inner)


def parse_views(text: str) -> list[Call]:
    """Take apart views joined by a plus, such as ``blur(kernel=15)+mosaic``."""
    calls = []
    for part in text.split("+"):
        match = _CALL.fullmatch(part.strip())
        if not match:
            raise ValueError(f"targets.tower: a view is written name or name(option=value; ...), got '{part}'.")
        calls.append(Call(match["name"], parse_options(match["options"], None, f"view '{match['name']}'")))
    return calls


def parse_options(text: str | None, known: tuple[str, ...] | None, where: str) -> dict[str, str]:
    """Take apart ``option=value; option=value``; with `known`, other names are refused."""
    options: dict[str, str] = {}
    for part in (text or "").split(";") if text is not None else []:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value) or name in options:
            raise ValueError(f"{where}: options are option=value with a semicolon between, each once, got '{part}'.")
        options[name] = value
    unknown = [name for name in options if known is not None and name not in known]
    if unknown:
        raise ValueError(f"{where}: no option '{unknown[0]}'; known: {', '.join(known or ()) or 'none'}.")
    return options


def _parse_layers(text: str, spec: str) -> Layers:
    match = _LAYERS.fullmatch(text.strip())
    names = tuple(name.strip() for name in (match["inside"] or match["bare"]).split(",")) if match else ()
    if match is None or not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"targets.tower '{spec}': layers are written @name,name or @token(name,name) or @mean(name,name), "
            f"each once, got '@{text}'."
        )
    return Layers(names, cast(Readout, match["readout"] or "whole"))


def _form(text: str, kind: Kind | None = None) -> ValueError:
    forms = [kind.form] if kind else [known.form for known in KINDS.values()]
    return ValueError(
        f"targets.tower must be {'; '.join(forms)}; perhaps with @layers and #views after it, got '{text}'."
    )
