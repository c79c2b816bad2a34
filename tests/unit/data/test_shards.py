import hashlib
import io
import json
import resource
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import webdataset
from PIL import Image

from eegdecode.batch import Fold, Manifest, TargetManifest
from eegdecode.data import shards, tarindex
from eegdecode.data.shardset import read_manifest
from eegdecode.storage import StorageError
from tests.writers import shard_set
from tests.writers.shard_set import trial_table

C, T, D = 3, 20, 8
PER_SHARD = (5, 7, 4)
N_PICTURES = 6


def make_table(n: int) -> pd.DataFrame:
    picture_row = np.arange(n) * 5 % N_PICTURES
    return trial_table(
        n,
        picture_row,
        key=[f"sub-01_ses-01_run-01_{i:05d}" for i in range(n)],
        recording="sub-01_ses-01_run-01",
        picture=[f"shape/{row}.png" for row in picture_row],
        concept=[f"concept{row // 2}" for row in picture_row],
        repetition=np.arange(n) // N_PICTURES,
        onset_s=np.arange(n) * 0.5,
    )


def make_arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(0, 20, (sum(PER_SHARD), C, T)).astype(np.float32), rng.normal(0, 1, (N_PICTURES, D)).astype("f4")


def make_image(row: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(row).integers(0, 255, (9, 11, 3), dtype=np.uint8))


def png_of(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


FOLD = Fold(name="concepts", by="concept", train=("concept0",), val=("concept1",), test=("concept2",))
IDS = [f"shape/{row}.png" for row in range(N_PICTURES)]


def write_set(uri: str) -> tuple[Manifest, pd.DataFrame]:
    """Write all shards; what is returned is ready to publish."""
    eeg_uv_NCT, _ = make_arrays()
    table = make_table(len(eeg_uv_NCT))
    pictures = [
        shards.PackedPicture(IDS[row], f"concept{row // 2}", make_image(row), "all" if row == 5 else "")
        for row in range(N_PICTURES)
    ]
    return shard_set.write_set(uri, eeg_uv_NCT, table, PER_SHARD, pictures), table


def everything(opened: shards.ShardSet) -> None:
    """Use every file of a set."""
    opened.gather(np.arange(opened.manifest.n_trials))
    opened.picture_images(range(opened.manifest.n_pictures))
    opened.table  # noqa: B018


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uri = tmp_path_factory.mktemp("shards") / "set"
    shards.publish(str(uri), *write_set(str(uri)))
    return uri


@pytest.fixture
def copied(published: Path, tmp_path: Path) -> Path:
    """A set of one's own to spoil."""
    return shutil.copytree(published, tmp_path / "set")


def rewrite_manifest(folder: Path, change, seal: bool = True) -> None:
    path = folder / "manifest.json"
    manifest = change(Manifest.model_validate_json(path.read_text()))
    path.write_text((manifest.sealed() if seal else manifest).model_dump_json())


def test_gather_returns_what_was_written(published: Path):
    eeg_uv_NCT, _ = make_arrays()
    opened = shards.open_shards(str(published))
    trials = np.array([15, 0, 4, 5, 11, 12, 0])
    eeg_BCT = opened.gather(trials)
    assert eeg_BCT.dtype == np.float16
    np.testing.assert_array_equal(eeg_BCT, eeg_uv_NCT[trials].astype(np.float16))
    assert opened.gather(np.zeros(0, np.int64)).shape == (0, C, T)
    assert opened.picture_row.tolist() == make_table(16)["picture_row"].tolist()
    facts = [fact for shard in (0, 1) for fact in opened.picture_facts(shard)]
    assert [fact.get("image_of", "") for fact in facts] == ["", "", "", "", "", "all"]
    assert [opened.picture_rows(k) for k in (0, 1)] == [range(4), range(4, 6)]
    assert opened.table["trial"].tolist() == list(range(16))
    assert opened.picture_ids == tuple(f"shape/{row}.png" for row in range(N_PICTURES))
    assert opened.picture_concepts[5] == "concept2"
    for row, image in zip((5, 0), opened.picture_images([5, 0]), strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(make_image(row)))
    with pytest.raises(ValueError, match="0 to 15, got 3 to 16"):
        opened.gather(np.array([3, 16]))


def test_memory_of_a_batch_is_used_again_only_when_nobody_looks_at_it(published: Path):
    opened, eeg_uv_NCT = shards.open_shards(str(published)), make_arrays()[0].astype(np.float16)
    rng = np.random.default_rng(0)
    held = []
    for k in range(50):
        trials = np.sort(rng.integers(0, 16, 7))
        eeg_BCT = opened.gather(trials)
        # Views of views, tensors, and single rows: each alone must keep the memory.
        kept = (eeg_BCT, torch.from_numpy(eeg_BCT)[1:].transpose(1, 2), eeg_BCT[3, 1:], eeg_BCT.view())
        held.append((trials, k % 4, kept[k % 4]))
        del eeg_BCT, kept
        if len(held) > 20:
            held.pop(0)
    for trials, kind, kept in held:
        whole = eeg_uv_NCT[trials]
        want = (whole, whole[1:].swapaxes(1, 2), whole[3, 1:], whole)[kind]
        np.testing.assert_array_equal(np.asarray(kept), want)
    addresses = {opened.gather(np.arange(5)).__array_interface__["data"][0] for _ in range(20)}
    assert len(addresses) == 1


def test_parts_do_not_meet_and_the_test_part_is_refused(published: Path):
    opened = shards.open_shards(str(published))
    train, val, test = opened.trials_of(FOLD, "train"), opened.trials_of(FOLD, "val"), shards.test_trials(opened, FOLD)
    assert sorted([*train, *val, *test]) == list(range(16))
    assert set(opened.table["concept"][train]) == {"concept0"}
    assert set(opened.table["concept"][test]) == {"concept2"}
    with pytest.raises(ValueError, match="only scoring sees the test part"):
        opened.trials_of(FOLD, "test")


def test_targets_are_a_set_of_their_own_tied_to_the_pictures(published: Path, tmp_path: Path):
    _, target_PD = make_arrays()
    manifest = read_manifest(str(published))
    made = shard_set.publish_targets(str(tmp_path / "a"), manifest, IDS, target_PD)
    second = shard_set.publish_targets(str(tmp_path / "b"), manifest, IDS, target_PD[:, :2])
    opened = shards.open_shards(str(published), targets={"": str(tmp_path / "a"), "two": str(tmp_path / "b")})
    np.testing.assert_array_equal(opened.target_PD, target_PD)
    np.testing.assert_array_equal(opened.targets["two"].target_PD, target_PD[:, :2])
    assert (opened.target.manifest.digest, opened.targets["two"].manifest.digest) == (made.digest, second.digest)
    with pytest.raises(ValueError, match="opened without targets"):
        shards.open_shards(str(published)).target_PD  # noqa: B018
    # Stale targets: the pictures of the set are others than those that were embedded.
    other = made.model_copy(update={"pictures_digest": "0" * 64})
    with pytest.raises(ValueError, match="are those of other pictures"):
        shards.publish_targets(str(tmp_path / "c"), other, manifest)
    (tmp_path / "a" / "manifest.json").write_text(other.sealed().model_dump_json())
    with pytest.raises(ValueError, match=r"the pictures changed since\. Run jobs/targets\.py again"):
        shards.open_shards(str(published), targets={"": str(tmp_path / "a")})


def test_a_spoilt_target_is_found_and_another_set_is_not_overwritten(published: Path, tmp_path: Path):
    _, target_PD = make_arrays()
    manifest = read_manifest(str(published))
    shard_set.publish_targets(str(tmp_path), manifest, IDS, target_PD)
    with pytest.raises(ValueError, match=r"another set .* is published at"):
        shard_set.publish_targets(str(tmp_path), manifest, IDS, target_PD + 1)
    with pytest.raises(ValueError, match="one shard for each shard of pictures"):
        shards.publish_targets(
            str(tmp_path / "b"),
            TargetManifest.model_validate_json((tmp_path / "manifest.json").read_text()).model_copy(
                update={"shards": ()}
            ),
            manifest,
        )
    with pytest.raises(ValueError, match="its target must be finite"):
        shards.write_target_shard(str(tmp_path), "x", IDS[:1], np.full((1, 3), np.nan, "f4"))
    content = bytearray((tmp_path / "targets-1.tar").read_bytes())
    content[700] ^= 1
    (tmp_path / "targets-1.tar").write_bytes(content)
    opened = shards.open_shards(str(published), targets={"": str(tmp_path)})
    with pytest.raises(ValueError, match=r"targets-1\.tar was altered"):
        opened.target_PD  # noqa: B018


def test_webdataset_reads_our_shards(published: Path):
    eeg_uv_NCT, _ = make_arrays()
    table = make_table(16)
    urls = [str(published / f"trials-{k}.tar") for k in range(3)]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == table["key"].tolist()
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(sample["eeg.npy"], eeg_uv_NCT[i].astype(np.float16))
        assert sample["json"]["picture"] == table["picture"][i]
        assert sample["json"]["position"] == i
    pictures = list(webdataset.WebDataset(str(published / "pictures-1.tar"), shardshuffle=False).decode("pil"))
    assert [picture["json"]["picture"] for picture in pictures] == ["shape/4.png", "shape/5.png"]
    np.testing.assert_array_equal(np.asarray(pictures[0]["png"]), np.asarray(make_image(4)))


def test_same_input_gives_the_same_bytes_and_can_be_published_again(published: Path, tmp_path: Path):
    again = shards.publish(str(tmp_path / "set"), *write_set(str(tmp_path / "set")))
    files = sorted(path.name for path in published.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "set").iterdir())
    assert len(files) == 2 * 5 + 2
    for name in files:
        assert (tmp_path / "set" / name).read_bytes() == (published / name).read_bytes(), name
    assert shards.publish(str(published), *write_set(str(published))).digest == again.digest


def test_a_published_set_is_not_changed(copied: Path):
    eeg_uv_NCT, _ = make_arrays()
    before = (copied / "trials-0.tar").read_bytes()
    with pytest.raises(ValueError, match=r"another set .* is published at"):
        shards.write_trial_shard(str(copied), "trials-0", eeg_uv_NCT[:2], make_table(2))
    manifest, table = write_set(str(copied))
    with pytest.raises(ValueError, match=r"another set .* is published at"):
        shards.publish(str(copied), manifest.model_copy(update={"config_digest": "1"}), table)
    assert (copied / "trials-0.tar").read_bytes() == before
    shards.open_shards(str(copied))


def test_members_are_plain_ustar(published: Path):
    with tarfile.open(published / "trials-1.tar") as tar:
        members = tar.getmembers()
    assert [m.name.split(".", 1)[1] for m in members[:4]] == ["eeg.npy", "json", "eeg.npy", "json"]
    assert all(m.mtime == 0 and m.isreg() and not m.pax_headers for m in members)
    data = (published / "trials-1.tar").read_bytes()
    assert data[257:263] == b"ustar\0"
    # One header and the padded data of each field, and the end mark: nothing else.
    assert len(data) == sum(512 + -(-m.size // 512) * 512 for m in members) + 1024


def test_index_is_what_an_ordinary_tar_reader_finds(published: Path):
    path = published / "pictures-0.tar"
    index = tarindex.TarIndex.from_bytes("i", (published / "pictures-0.index.npz").read_bytes())
    with tarfile.open(path) as tar:
        places = [(m.offset_data, m.size) for m in tar.getmembers()]
    assert list(zip(index.offset_NF.ravel().tolist(), index.size_NF.ravel().tolist(), strict=True)) == places
    assert index.tar_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["trials-1.tar", "pictures-0.tar", "trials-0.index.npz", "table.parquet"])
@pytest.mark.parametrize("fault", ["cut", "altered", "missing"])
def test_a_spoilt_file_is_found_and_named(copied: Path, name: str, fault: str):
    path = copied / name
    content = path.read_bytes()
    if fault == "cut":
        path.write_bytes(content[:-100])
    elif fault == "altered":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.unlink()
    with pytest.raises(ValueError, match=f"{name} (was|is) (cut|altered|missing)"):
        everything(shards.open_shards(str(copied)))


def test_unverified_opening_still_finds_a_cut_shard(copied: Path):
    (copied / "trials-1.tar").write_bytes((copied / "trials-1.tar").read_bytes()[:-512])
    with pytest.raises(ValueError, match=r"trials-1\.tar was cut"):
        everything(shards.open_shards(str(copied), verify=False))


def test_index_of_another_shard_is_refused(copied: Path):
    def swap(manifest: Manifest) -> Manifest:
        first, second, *rest = manifest.trials
        return manifest.model_copy(update={"trials": (first.model_copy(update={"index": second.index}), second, *rest)})

    rewrite_manifest(copied, swap)
    with pytest.raises(ValueError, match=r"index trials-1\.index\.npz does not belong to its shard trials-0\.tar"):
        everything(shards.open_shards(str(copied)))


def test_manifests_that_are_not_ours_are_refused(copied: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"no shard set is published at .*nowhere.*Prepare it first"):
        shards.open_shards(str(tmp_path / "nowhere"))
    original = (copied / "manifest.json").read_text()
    rewrite_manifest(copied, lambda m: m.model_copy(update={"schema_version": 7}))
    with pytest.raises(ValueError, match="must have schema version 2, got 7"):
        shards.open_shards(str(copied))
    (copied / "manifest.json").write_text(original)
    rewrite_manifest(copied, lambda m: m.model_copy(update={"sfreq_hz": 250.0}), seal=False)
    with pytest.raises(ValueError, match="digest must be that of its content"):
        shards.open_shards(str(copied))
    (copied / "manifest.json").write_text(original[:200])
    with pytest.raises(ValueError, match="cut or altered: it is not JSON"):
        shards.open_shards(str(copied))
    tree = json.loads(original)
    (copied / "manifest.json").write_text(json.dumps({**tree, "trust_me": True}))
    with pytest.raises(ValueError, match="trust_me"):
        shards.open_shards(str(copied))
    (copied / "manifest.json").write_text(original)
    rewrite_manifest(copied, lambda m: m.model_copy(update={"table": m.table.model_copy(update={"name": "../x"})}))
    with pytest.raises(ValueError, match=r"plain name, got '\.\./x'"):
        shards.open_shards(str(copied))


def test_a_manifest_that_says_another_shape_is_refused(copied: Path):
    rewrite_manifest(copied, lambda m: m.model_copy(update={"n_times": 10}))
    with pytest.raises(ValueError, match=r"trials-0.tar: 'eeg.npy' must be <f2 \(3, 10\).*got <f2 \(3, 20\)"):
        everything(shards.open_shards(str(copied)))


def test_keys_must_be_unique_and_plain(tmp_path: Path):
    eeg_uv_NCT, _ = make_arrays()
    table = make_table(3)
    table.loc[2, "key"] = table.loc[0, "key"]
    with pytest.raises(ValueError, match="key 'sub-01_ses-01_run-01_00000' occurs twice"):
        shards.write_trial_shard(str(tmp_path), "a", eeg_uv_NCT[:3], table)
    table.loc[2, "key"] = "../../etc/passwd"
    with pytest.raises(ValueError, match=r"letters, digits.*got '\.\./\.\./etc/passwd'"):
        shards.write_trial_shard(str(tmp_path), "a", eeg_uv_NCT[:3], table)
    picture = shards.PackedPicture("house", "house", make_image(0))
    with pytest.raises(ValueError, match="key 'house' occurs twice"):
        shards.write_picture_shard(str(tmp_path), "a", [picture, picture])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6, -70000.0])
def test_values_float16_cannot_hold_are_refused(tmp_path: Path, bad: float):
    eeg_uv_NCT, _ = make_arrays()
    eeg_uv_NCT[1, 2, 3] = bad
    with pytest.raises(ValueError, match="trial 'sub-01_ses-01_run-01_00001': values must be finite and within"):
        shards.write_trial_shard(str(tmp_path), "a", eeg_uv_NCT[:3], make_table(3))
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_does_not_decode_is_named(copied: Path, tmp_path: Path):
    png = io.BytesIO()
    make_image(0).resize((64, 64)).save(png, format="PNG")
    cut = Image.open(io.BytesIO(png.getvalue()[:2000]))
    with pytest.raises(ValueError, match="picture 'broken one' does not decode"):
        shards.write_picture_shard(str(tmp_path / "new"), "a", [shards.PackedPicture("broken one", "c", cut)])
    assert list((tmp_path / "new").iterdir()) == []

    opened = shards.open_shards(str(copied))
    opened.picture_images([0])
    index = tarindex.TarIndex.from_bytes("i", (copied / "pictures-0.index.npz").read_bytes())
    # Spoilt after it was opened, in place, as a failing disk would.
    with (copied / "pictures-0.tar").open("r+b") as file:
        file.seek(int(index.offset_NF[2, index.column("png")]))
        file.write(b"\0" * 60)
    with pytest.raises(ValueError, match=r"picture 'shape/2\.png' does not decode: it must be one of PNG"):
        opened.picture_images([0, 2])


def test_a_picture_of_a_set_from_others_is_looked_at_before_it_is_decoded(tmp_path: Path, monkeypatch):
    uri = str(tmp_path / "set")
    # Few bytes, and 192 MB once decoded. Our own writer never writes what others may.
    large = png_of(Image.new("1", (8001, 8000)))
    monkeypatch.setattr(shards, "_png", lambda picture, image: large)
    manifest, table = write_set(uri)
    shards.publish(uri, manifest, table)
    with pytest.raises(ValueError, match=r"picture 'shape/3\.png' must have at most 64000000 pixels.* 8001 x 8000"):
        shards.open_shards(uri).picture_images([3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.assign(key=["x" if i == 9 else k for i, k in enumerate(t["key"])]),
            "trials-1.tar holds trial .* 'x'",
        ),
        (lambda t: t.iloc[::-1], "holds trial"),
        (lambda t: t.assign(key=[t["key"][0], *t["key"][:-1]]), "occurs twice"),
        (lambda t: t.assign(picture_row=0), "picture_row 0 is not the row of picture"),
        (lambda t: t.assign(picture_row=99), "picture_row 99 is not the row of picture"),
        (lambda t: t.drop(columns=["concept", "run"]), r"\['run', 'concept'\] are missing"),
        (lambda t: t.iloc[:-1], "count the same trials"),
        (lambda t: t.assign(trial=1), "'trial' must number the rows"),
    ],
)
def test_a_table_that_does_not_belong_to_the_shards_is_not_published(tmp_path: Path, change, message: str):
    manifest, table = write_set(str(tmp_path))
    with pytest.raises(ValueError, match=message):
        shards.publish(str(tmp_path), manifest, change(table))
    assert not (tmp_path / "manifest.json").exists()


def test_a_missing_shard_is_not_published(tmp_path: Path):
    manifest, table = write_set(str(tmp_path))
    (tmp_path / "trials-2.tar").unlink()
    with pytest.raises(ValueError, match=r"trials-2\.tar must have .* bytes, and is not there"):
        shards.publish(str(tmp_path), manifest, table)
    assert not (tmp_path / "manifest.json").exists()


def test_full_disk_while_publishing_leaves_nothing_readable(tmp_path: Path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(tmp_path)]
    mounted = shutil.which("mount") and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        # No right to mount a small disk: a limit on the size of a file instead.
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 10, limit[1]))
    try:
        with pytest.raises(StorageError, match=r"no space left to write .* Free some"):
            shards.publish(str(tmp_path), *write_set(str(tmp_path)))
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        with pytest.raises(ValueError, match="no shard set is published"):
            shards.open_shards(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        if mounted:
            subprocess.run(["umount", str(tmp_path)], check=True)


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_index_refuses_tars_with_anything_but_samples(tmp_path: Path):
    link = tarfile.TarInfo("a.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    plain = tarfile.TarInfo
    refused = {
        "ordinary USTAR file": tar_of(tmp_path / "link.tar", (link, b"")),
        "a member must be named": tar_of(tmp_path / "dots.tar", (plain("../a.json"), b"{}")),
        "key 'a' occurs twice": tar_of(
            tmp_path / "twice.tar", *((plain(n), b"1") for n in ("a.json", "b.json", "a.json"))
        ),
        "must have the fields": tar_of(tmp_path / "odd.tar", (plain("a.json"), b"1"), (plain("b.png"), b"1")),
        "type and shape of the first": tar_of(
            tmp_path / "shapes.tar", (plain("a.x.npy"), npy(np.zeros(3))), (plain("b.x.npy"), npy(np.zeros((1, 3))))
        ),
        "plain C-ordered": tar_of(tmp_path / "lies.tar", (plain("a.x.npy"), npy(np.zeros(30))[:-8])),
        "no npy array": tar_of(tmp_path / "text.tar", (plain("a.x.npy"), b"not an array")),
        "holds no sample": tar_of(tmp_path / "none.tar"),
    }
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    refused["must be a plain"] = tar_of(tmp_path / "pickle.tar", (plain("a.x.npy"), pickled.getvalue()))
    (tmp_path / "empty.tar").write_bytes(b"")
    refused["is empty"] = tmp_path / "empty.tar"
    for message, path in refused.items():
        with pytest.raises(ValueError, match=message):
            tarindex.index_tar(path)
    good = tar_of(tmp_path / "good.tar", (plain("a.json"), b"1"), (plain("b.json"), b"1")).read_bytes()
    for cut in (good[:1300], good[:2048]):
        (tmp_path / "cut.tar").write_bytes(cut)
        with pytest.raises(ValueError, match=r"cut\.tar was cut"):
            tarindex.index_tar(tmp_path / "cut.tar")
    (tmp_path / "sum.tar").write_bytes(good[:100] + b"7" + good[101:])
    with pytest.raises(ValueError, match="sample 'a' does not add up"):
        tarindex.index_tar(tmp_path / "sum.tar")
