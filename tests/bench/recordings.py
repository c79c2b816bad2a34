"""A long continuous recording, cut by the project and by a plain MNE script: `bench_prepare.py` runs and times both.

`python recordings.py ours|mne FOLDER OUT` is a process that cuts the one recording of a folder and prints its peak.
"""

import json
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from PIL import Image

from eegdecode.config import Epochs, MneData
from eegdecode.data import shards
from eegdecode.data.epochs import cut
from eegdecode.data.sources import open_source

CHANS, SFREQ_HZ, SOA_S, PICTURES = 63, 1000.0, 0.2, 200
# The cut of THINGS-EEG2 (Gifford et al. 2022): 1000 Hz to 250 Hz, a picture every 200 ms.
SPEC = Epochs(tmin_s=-0.2, tmax_s=0.8, baseline_s=(None, 0.0), sfreq_hz=250.0)
PER_SHARD = 2000
NAME = "sub-01_ses-01_run-01"


def write(folder: Path, minutes: float) -> Path:
    """Write noise of about 10 µV as EDF with events and pictures as `source: mne` reads them; return the EDF."""
    rng = np.random.default_rng(0)
    n_times = round(minutes * 60 * SFREQ_HZ)
    eeg_uv_CT = 10 * rng.standard_normal((CHANS, n_times), np.float32)
    info = mne.create_info([f"E{c}" for c in range(CHANS)], SFREQ_HZ, "eeg")
    raw = mne.io.RawArray(eeg_uv_CT * 1e-6, info, verbose="ERROR")
    folder.mkdir(parents=True)
    path = folder / f"{NAME}.edf"
    mne.export.export_raw(path, raw, physical_range=(-100.0, 100.0), verbose="ERROR")
    # Not all onsets fall on whole multiples of the decimation.
    onset_s = np.arange(1.0, minutes * 60 - 2, SOA_S) + 0.001
    pictures = [f"p{k % PICTURES:03d}.png" for k in range(len(onset_s))]
    pd.DataFrame({"onset": onset_s, "picture": pictures}).to_csv(
        folder / f"{NAME}_events.tsv", sep="\t", index=False, float_format="%.3f"
    )
    (folder / "pictures").mkdir()
    for picture in sorted(set(pictures)):
        Image.new("RGB", (8, 8)).save(folder / "pictures" / picture)
    return path


def ours(folder: Path, out: Path) -> int:
    """As `runtime.prepare` does with one recording: list, read, cut, pack; return the number of trials."""
    source = open_source(MneData(), str(folder))
    (ref,) = source.recordings()
    trials = cut(source.read(ref), SPEC)
    table = trials.table.assign(key=[f"{ref.key}_{event:05d}" for event in trials.table["event"]])
    for shard, start in enumerate(range(0, len(table), PER_SHARD)):
        of = slice(start, start + PER_SHARD)
        name = f"trials-{shard:03d}"
        shards.write_trial_shard(str(out), name, trials.eeg_uv_NCT[of], table.iloc[of])
    return len(table)


def mne_script(folder: Path, out: Path) -> int:
    """What one writes with MNE alone."""
    raw = mne.io.read_raw_edf(folder / f"{NAME}.edf", preload=True, verbose="ERROR")
    raw.pick("eeg", verbose="ERROR")
    table = pd.read_csv(folder / f"{NAME}_events.tsv", sep="\t")
    sample_N = np.rint(table["onset"] * raw.info["sfreq"]).astype(int)
    code_N = pd.factorize(table["picture"])[0] + 1
    events = np.column_stack([sample_N, np.zeros_like(sample_N), code_N])
    epochs = mne.Epochs(raw, events, tmin=-0.2, tmax=0.8, baseline=(None, 0), preload=True, verbose="ERROR")
    epochs.resample(250, verbose="ERROR")
    np.save(out / "eeg.npy", (epochs.get_data(copy=False) * 1e6).astype(np.float16))
    np.save(out / "picture.npy", np.array(table["picture"].to_numpy(str)[epochs.selection]))
    return len(epochs)


def check_equal(ours_out: Path, script_out: Path) -> None:
    """Raise unless the packed trials are the script's, to the precision of float16 and in the same order."""
    theirs_NCT = np.load(script_out / "eeg.npy").astype(np.float32)
    ours_NCT = []
    for tar in sorted(ours_out.glob("*.tar")):
        with tarfile.open(tar) as members:
            for member in members:
                file = members.extractfile(member)
                if file is not None and member.name.endswith(".eeg.npy"):
                    ours_NCT.append(np.load(BytesIO(file.read())).astype(np.float32))
    np.testing.assert_allclose(np.stack(ours_NCT), theirs_NCT, rtol=2**-10, atol=1e-3)


def main() -> None:
    side = {"ours": ours, "mne": mne_script}[sys.argv[1]]
    imported_mb = _peak_mb()
    start = time.perf_counter()
    trials = side(Path(sys.argv[2]), Path(sys.argv[3]))
    seconds = time.perf_counter() - start
    print(json.dumps({"trials": trials, "seconds": seconds, "peak_mb": _peak_mb(), "imported_mb": imported_mb}))


def _peak_mb() -> float:
    # Not getrusage: what it gives begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
