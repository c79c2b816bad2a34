"""Decoders of EEGCVPR40, whose classes come in blocks: what they score may be the block and not the picture.

Li et al. (2020, IEEE TPAMI) show it; these are here to be compared with the controls for it, not with other data sets.
"""

from eegdecode.config import (
    FEATURES,
    Compute,
    Data,
    EegCvpr40Data,
    Encoder,
    Epochs,
    Experiment,
    Loss,
    LossTerm,
    Protocol,
    Search,
    Stream,
    Targets,
)
from eegdecode.recipes.published import course

_PICTURES = 1600
"""Training pictures of a person: about 80 of 100 of 40 classes of 50."""
_DATA = Data(source=EegCvpr40Data(subjects=("01",)), epochs=Epochs(baseline_s=None, sfreq_hz=1000.0))


def distill() -> Experiment:
    """Distillation: a CNN on spectrograms learns from the labels and from a teacher's probabilities.

    Paper: Ferrante et al., 2023 (arXiv 2309.07149); no code was published. From there: STFT spectrograms of all 128
    electrodes as the input of a CNN, CLIP's zero-shot probabilities over the 40 classes as the teacher, CE with the
    labels plus CE with the teacher, one model a person, split by picture.

    Chosen here, since nothing of it is given:

    - The main target is the teacher's probabilities, and the embedding the student's class logits: both terms act on
      them with weight 1, the gallery is ranked by them, and a test picture's class is that of its own probabilities.
    - The file `eegcvpr40_classes.txt` below compute.weights_uri has one class a line, in the order of the data set's
      sorted labels (WordNet ids), best with the label in front (`n02106662 German shepherd`), as `neuroimagen_label`
      needs it. It is refused where the teacher's means contradict that order.
    - Teacher CLIP ViT-L/14, prompt "an image of a {concept}" (the paper's, from its generation step), no temperature.
    - Windows, layers and width of the CNN: see `eegdecode.models.spectrogram`; wavelets are `distill_wavelet`.
    - AdamW at 1e-3 with decay 1e-2, 50 passes in batches of 64, dropout 0.5, the best step on the validation pictures.
    """
    return Experiment(
        recipe="distill",
        data=_DATA,
        stream=Stream(average=0),
        targets=Targets(
            tower="teacher(classes=eegcvpr40_classes.txt; prompt=an image of a {concept}):open_clip:ViT-L-14:openai",
            centre=False,
        ),
        encoder=Encoder(name="spectrogram", dropout=0.5, whiten="scale"),
        loss=Loss(terms=(LossTerm(name="ce_hard"), LossTerm(name="ce_soft")), contrastive_batch=64),
        schedule=course(50, _PICTURES, 64, 1e-3, 1e-2),
        protocol=Protocol(split_by="picture"),
        search=Search(lr=(3e-4, 1e-3), temperature=(0.07,), steps=250),
        compute=Compute(runs_uri="runs/distill"),
    )


def distill_wavelet() -> Experiment:
    """Distillation to a student on wavelets, the paper's second front; see `distill`."""
    return distill().override(
        {"recipe": "distill_wavelet", "encoder.name": "scalogram", "compute.runs_uri": "runs/distill_wavelet"}
    )


def neuroimagen() -> Experiment:
    """NeuroImagen: a triplet extractor f(x), and a head on it that predicts the caption's text embedding.

    Paper: Lan et al., 2023 (arXiv 2308.02510, NeuroImagen); no code was published. From there: triplets of f(x) by
    class, with squared distances and a margin; the squared distance of what is read out of the EEG to the CLIP text
    embedding of the caption that BLIP writes.

    Chosen here, since the paper leaves it open:

    - f(x) has 128 numbers, and the head is linear. Both are trained together: all triplets of a batch, margin 1, weight
      1 for either term.
    - EEGNet as the extractor, dropout 0.5; AdamW at 1e-3 with decay 1e-2, 50 passes in batches of 64.
    - CLIP ViT-L/14's text side, which Stable Diffusion 1 is conditioned on. The paper's other caption, the name of the
      class, is `neuroimagen_label`.
    - The generator that draws the saliency map with an adversary is not here. What it is conditioned with is:
      `eegdecode.load(ADDRESS).outputs(eeg)["features"]` is f(x), and the map a target (`saliency:spectral_residual`).
    """
    return Experiment(
        recipe="neuroimagen",
        data=_DATA,
        stream=Stream(average=0),
        targets=Targets(
            tower="text(captions=Salesforce/blip-image-captioning-base):transformers:openai/clip-vit-large-patch14",
            centre=False,
        ),
        encoder=Encoder(name="eegnet", dropout=0.5, whiten="scale", features=128),
        loss=Loss(
            terms=(LossTerm(name="triplet", target=FEATURES, margin=1.0), LossTerm(name="mse")), contrastive_batch=64
        ),
        schedule=course(50, _PICTURES, 64, 1e-3, 1e-2),
        protocol=Protocol(split_by="picture"),
        search=Search(lr=(3e-4, 1e-3), temperature=(0.07,), steps=250),
        compute=Compute(runs_uri="runs/neuroimagen"),
    )


def neuroimagen_label() -> Experiment:
    """NeuroImagen with the paper's other caption, the name of the class; see `neuroimagen`.

    Chosen here: the prompt "an image of a {concept}", which `distill` has as well. The same file, with a line for every
    class that begins with its label, says what the labels mean.
    """
    prompted = "text(prompt=an image of a {concept}; classes=eegcvpr40_classes.txt)"
    return neuroimagen().override(
        {
            "recipe": "neuroimagen_label",
            "targets.tower": f"{prompted}:transformers:openai/clip-vit-large-patch14",
            "compute.runs_uri": "runs/neuroimagen_label",
        }
    )
