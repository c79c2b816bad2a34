"""Bundles on the Hugging Face hub: a model card beside the files, pushed and pulled by id.

A bundle's folder is what a repository of the hub holds, so a pulled repository is a bundle as it is. The card is for
people and stands outside the bundle's digest: scores can be added when they are known.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, snapshot_download

from eegdecode import bundle, storage
from eegdecode.bundle import Bundle
from eegdecode.wording import SPLIT, gallery_words, learnt_words

SCHEME = "hf://"
_TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

EEG decoder: from {{ chans }} electrodes at {{ sfreq_hz }} Hz ({{ window }}) to what the person saw.

```python
import eegdecode
model = eegdecode.load("{{ address }}")
model.predict(eeg_uv_NCT)  # float32 (trials, {{ chans }} chans, {{ times }} times), microvolt
```

- recipe `{{ recipe }}`, fold `{{ fold }}`: {{ split }}; step {{ step }}
- target: `{{ tower }}`; gallery of {{ pictures }} pictures of {{ concepts }} concepts
- scores rank {{ ranked }}
- electrodes in order: {{ channels }}
- people it has learnt something of their own for (`subject=` of `predict`): {{ people }}
- trained on shard set `{{ manifest }}`; bundle `{{ digest }}`
- draws pictures: {{ draws }}

## Scores

{{ scores }}

Decodes only what was shown to people in a laboratory, in the design named above; a score without its chance level and
protocol says nothing.
"""


def card(made: Bundle, address: str, scores: Mapping[str, tuple[float, float]], licence: str = "other") -> ModelCard:
    """Return the model card of a bundle.

    Parameters
    ----------
    address
        From which it is loaded, as `eegdecode.load` takes it.
    scores
        Name of a score to its value and its chance level, both in [0, 1]; empty where none was taken yet.
    licence
        Of the weights, an id of the hub; it follows from that of the recordings.
    """
    fact, recipe, protocol = made.fact, made.experiment.recipe, made.experiment.protocol
    n_pictures, n_concepts = len(made.gallery.pictures), len(set(made.gallery.concepts))
    n_shown = n_pictures if protocol.gallery == "picture" else n_concepts
    data = ModelCardData(
        license=licence,
        library_name="eegdecode",
        tags=["eeg", "brain-decoding", made.experiment.encoder.name],
        model_name=recipe,
        eval_results=[
            EvalResult(
                task_type="other",
                dataset_type=made.experiment.data.source.kind,
                dataset_name=f"shard set {fact.manifest_digest[:12]}, {SPLIT[fact.fold.by]}",
                metric_type=name,
                metric_name=f"{name} (chance {chance:.4g})",
                metric_value=value,
            )
            for name, (value, chance) in scores.items()
        ]
        or None,
    )
    made_card: ModelCard = ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        title=f"eegdecode {recipe}",
        address=address,
        recipe=recipe,
        fold=fact.fold.name,
        split="; ".join([SPLIT[fact.fold.by], *learnt_words(protocol)]),
        step=fact.step,
        chans=len(fact.channels),
        channels=", ".join(fact.channels),
        people=", ".join(fact.subjects) or "none",
        times=fact.n_times,
        sfreq_hz=f"{fact.sfreq_hz:g}",
        window=f"{fact.tmin_s:g} to {fact.tmin_s + (fact.n_times - 1) / fact.sfreq_hz:g} s around its onset",
        tower=fact.target.tower,
        pictures=n_pictures,
        concepts=n_concepts,
        ranked=gallery_words(protocol, n_shown, max(n_shown, protocol.n_way)),
        manifest=fact.manifest_digest[:12],
        digest=made.digest[:12],
        draws="yes" if made.drawer is not None else "no, it ranks concepts",
        scores="\n".join(f"- {name}: {value:.4g}, chance {chance:.4g}" for name, (value, chance) in scores.items())
        or "None was taken when this card was written.",
    )
    return made_card


def write_card(uri: str, address: str = "", scores: Mapping[str, tuple[float, float]] | None = None) -> None:
    """Put the card (`README.md`) beside a bundle; written again, it replaces the one that is there."""
    made = bundle.load(uri)
    storage.write_bytes(storage.join(uri, "README.md"), str(card(made, address or uri, scores or {})).encode())


def push(uri: str, repo: str, private: bool = True) -> str:
    """Copy a bundle with its card to a repository of the hub and return its address there.

    Parameters
    ----------
    repo
        ``owner/name``; made if it is not there. The token is the one that the hub's own tools use.
    """
    made = bundle.load(uri)  # nothing that was altered is passed on
    address = f"{SCHEME}{repo}"
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bundle.copy(uri, Path(folder))
        if not (Path(folder) / "README.md").is_file():
            (Path(folder) / "README.md").write_text(str(card(made, address, {})))
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"bundle {made.digest[:12]}")
    return address


def load(address: str) -> Bundle:
    """Return the bundle of a folder, of object storage, or of the hub (``hf://``).

    Raises
    ------
    ValueError
        No bundle there, or one that was altered.
    """
    return bundle.load(pull(address) if address.startswith(SCHEME) else address)


def pull(address: str) -> str:
    """Return the local folder of a repository's files; they are fetched unless the hub's cache has them.

    Parameters
    ----------
    address
        ``hf://owner/name`` or ``hf://owner/name@revision``.

    Raises
    ------
    ValueError
        An address of another form.
    """
    repo, _, revision = address.removeprefix(SCHEME).partition("@")
    if not address.startswith(SCHEME) or repo.count("/") != 1:
        raise ValueError(f"a bundle of the hub is addressed as {SCHEME}owner/name[@revision], got '{address}'.")
    folder: str = snapshot_download(repo, revision=revision or None)
    return folder
