"""Photographs as stimuli of the simulation: real ones of the data pack."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eegdecode.config import SyntheticData
from eegdecode.data.sources import PictureError, SourceError, open_source
from eegdecode.data.sources.photographs import Photographs

SMALL = SyntheticData(
    pictures="folder", n_subjects=1, n_train_concepts=30, pictures_per_concept=1, n_test_concepts=8, picture_px=64
)


def write(folder: Path, names: list[str]) -> None:
    for k, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 30), (10 * k, 0, 0)).save(path)


def test_real_photographs_are_shown(shared: Path) -> None:
    folder = shared / "data" / "images" / "imagenet_samples"
    source = open_source(SMALL, str(folder))
    pictures = {p.picture: p for p in source.pictures()}
    assert sorted(p.partition for p in pictures.values()) == ["test"] * 8 + ["train"] * 30
    assert len({p.concept for p in pictures.values()}) == 38
    one = pictures[min(pictures)]
    with Image.open(folder / f"{one.concept}.jpg") as image:
        expected = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(one.images()[0]), expected)
    code_PK = source.code(sorted(pictures))
    assert code_PK.shape == (38, 21)
    training = [name for name, p in sorted(pictures.items()) if p.partition == "train"]
    # The brain's axes are principal components of the training photographs: no mean, deviations as declared.
    np.testing.assert_allclose(source.code(training).mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(source.code(training).std(axis=0), source.code_deviation_K, rtol=1e-3)


def test_the_same_concepts_are_drawn_again_and_others_with_another_seed(tmp_path: Path) -> None:
    write(tmp_path, [f"thing_{k}.png" for k in range(12)])
    photographs = Photographs(tmp_path)
    train, test = photographs.divided(0, 6, 4)
    assert not set(train) & set(test)
    assert photographs.divided(0, 6, 4) == (train, test) != photographs.divided(1, 6, 4)
    with pytest.raises(SourceError, match=r"at most the 12 pictures of compute\.data_uri, got 10 \+ 4"):
        photographs.divided(0, 10, 4)


def test_folders_that_do_not_serve(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="found none"):
        Photographs(tmp_path)
    write(tmp_path, ["a/cat.png", "b/cat.png"])
    with pytest.raises(SourceError, match="'cat' has several"):
        Photographs(tmp_path)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "broken.jpg").write_bytes(b"not a picture")
    (tmp_path / "b" / "cat.png").unlink()
    with pytest.raises(PictureError, match=r"broken\.jpg of compute\.data_uri does not decode"):
        Photographs(tmp_path).rgb(["broken"], 16)


def test_one_file_is_one_picture() -> None:
    with pytest.raises(ValueError, match="must be 1 where pictures='folder'"):
        SyntheticData(pictures="folder")
