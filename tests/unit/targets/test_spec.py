import pytest

from eegdecode.targets import open_tower
from eegdecode.targets.spec import Call, Layers, Spec, parse


def test_all_parts_of_a_spec():
    assert parse(
        "open_clip:ViT-H-14:laion2b_s32b_b79k@token(visual.a.20, visual.a.24)#fovea(kernel=45; g=4)+mosaic"
    ) == Spec(
        "open_clip",
        {},
        "ViT-H-14:laion2b_s32b_b79k",
        Layers(("visual.a.20", "visual.a.24"), "token"),
        (Call("fovea", {"kernel": "45", "g": "4"}), Call("mosaic", {})),
    )


def test_only_the_kind_is_needed():
    assert parse("gabor") == Spec("gabor", {}, "", None, ())
    assert parse("gabor#blur") == Spec("gabor", {}, "", None, (Call("blur", {}),))


def test_a_text_spec_holds_another():
    spec = parse("text(prompt=This (really: #1) is {concept}):open_clip:RN50:openai@transformer.resblocks.3")
    assert spec.options == {"prompt": "This (really: #1) is {concept}"}
    assert spec.inner == Spec("open_clip", {}, "RN50:openai", Layers(("transformer.resblocks.3",)), ())
    spec = parse("text(captions=Salesforce/blip):transformers:openai/clip#lowres(scale=0.5)")
    assert (spec.options, spec.inner.model) == ({"captions": "Salesforce/blip"}, "openai/clip")
    assert spec.views == (Call("lowres", {"scale": "0.5"}),)


@pytest.mark.parametrize("path", ["/data/user@host/net", "/data/#1/net", "file:///data/a:b/net", "timm/x.y-z"])
def test_paths_keep_their_signs(path):
    spec = parse(f"transformers:{path}@mean(encoder.layer.3)#noise(std=5)")
    assert (spec.model, spec.layers) == (path, Layers(("encoder.layer.3",), "mean"))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("clip:x", "must be gabor; gabor_words; pyramid; pyramid_words; timm:"),
        ("gabor:2", "must be gabor; perhaps"),
        ("gabor@conv", "'gabor' has no layers"),
        ("gabor(px=3)", "no option 'px'; known: none"),
        ("vae:x@encoder", "'vae' has no layers"),
        ("vae(px=256, range=unit):", "must be vae"),
        ("vae(side=256):x", "no option 'side'; known: px, subfolder, range"),
        ("vae(px=256; px=128):x", "each once"),
        ("vae(px):x", "options are option=value"),
        ("timm:x@", "layers are written"),
        ("timm:x@a,,b", "layers are written"),
        ("timm:x@a,a", "layers are written"),
        ("timm:x@max(a)", "layers are written"),
        ("timm:x@token(a", "layers are written"),
        ("timm:x#", "a view is written"),
        ("timm:x#blur(", "a view is written"),
        ("timm:x#blur(15)", "options are option=value"),
        ("timm:x#haze", "no view 'haze'; known: identity, fovea"),
        ("timm:x#blur(sigma=3)", "no option 'sigma'; known: kernel, px"),
        ("timm:x#blur(kernel=wide)", "kernel must be of type int, got 'wide'"),
        ("timm:x#blur(kernel=4)", "kernel must be odd and positive, got 4. Nearest valid values: 3, 5"),
        ("timm:x#fovea(curve=step)", "curve must be one of exp, linear, quadratic, got 'step'"),
        ("timm:x#lowres(scale=0)", "scale must be above 0"),
        ("timm:x#mosaic(block=0)", "block must be between 1 and 224"),
        ("timm:x#noise(std=-1)", "std must not be negative"),
        ("timm:x#blur(px=0)", "px must be positive"),
        ("text:open_clip:a:b", "exactly one of prompt and captions"),
        ("text(prompt=a {concept}; captions=x):open_clip:a:b", "exactly one of prompt and captions"),
        ("text(prompt=a thing):transformers:a", "must hold {concept} once"),
        ("text(prompt=a {concept} {x}):transformers:a", "no other brace"),
        ("text(prompt=a {concept}):timm:a", "must be text(prompt="),
        ("text(prompt=a {concept}):transformers:a#blur", "does not see the picture"),
        ("teacher:gabor", "must be teacher:timm"),
        ("teacher(classes=x):timm:a", "has its own classes"),
        ("teacher:transformers:a", "needs 'classes'"),
        ("teacher(classes=/no/where):transformers:a", "nothing lies at '/no/where'"),
        ("teacher:timm:a@conv", "'teacher' has no layers"),
    ],
)
def test_what_is_malformed_is_refused_with_the_way_out(spec, said):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        open_tower(spec, "")
    assert said in str(error.value)
