"""First decoders on a dataset: linear, without weights to fetch, to see that everything works and where chance lies."""

from eegdecode.config import (
    BidsData,
    Compute,
    Data,
    EegCvpr40Data,
    Encoder,
    Epochs,
    Experiment,
    Protocol,
    Schedule,
    Search,
    Stream,
    Targets,
    ThingsEeg2Data,
)


def things_eeg2() -> Experiment:
    """THINGS-EEG2 from its raw files (`compute.data_uri`), 200 test concepts: a first decoder that needs no weights.

    Cut and noise normalisation are NICE's (Song et al. 2024): -0.2 to 1 s, 250 Hz, covariance of training trials per
    session. Training repetitions are averaged, as in most papers on these data.
    """
    return Experiment(
        recipe="things_eeg2",
        data=Data(
            source=ThingsEeg2Data(),
            epochs=Epochs(tmin_s=-0.2, tmax_s=1.0, sfreq_hz=250.0, crop_s=(0.0, 0.996), mvnn="epochs"),
        ),
        stream=Stream(average=0),
        targets=Targets(project=32),
        encoder=Encoder(name="linear", dropout=0.0, start="canonical", whiten="none"),
        schedule=Schedule(steps=100, lr=1e-5, validate_every=20, save_every=50),
        protocol=Protocol(n_val=100),
        search=Search(lr=(1e-6, 1e-5), temperature=(0.1, 0.3), steps=60),
        compute=Compute(runs_uri="runs/things_eeg2"),
    )


def bids() -> Experiment:
    """Any BIDS-EEG folder (`compute.data_uri`) whose events name pictures; concepts by the source's own partition.

    Where pictures have no partition, divide by run or subject: ``--set protocol.split_by=run``.
    """
    base = things_eeg2()
    return base.model_copy(
        update={
            "recipe": "bids",
            "data": Data(source=BidsData(), epochs=Epochs(tmin_s=-0.2, tmax_s=0.8, sfreq_hz=100.0)),
            "protocol": Protocol(n_val=10),
            "encoder": base.encoder.model_copy(update={"whiten": "channels"}),
            "compute": Compute(runs_uri="runs/bids"),
        }
    )


def eegcvpr40() -> Experiment:
    """EEGCVPR40 (`compute.data_uri`) by the authors' split of pictures. A block design: its scores need the controls.

    The published window, samples 20 to 460 (Spampinato et al. 2017), of EEG that came filtered and standardised.
    """
    base = things_eeg2()
    return base.model_copy(
        update={
            "recipe": "eegcvpr40",
            "data": Data(source=EegCvpr40Data(), epochs=Epochs(baseline_s=None, sfreq_hz=125.0)),
            "protocol": Protocol(split_by="picture", n_val=1),
            "encoder": base.encoder.model_copy(update={"whiten": "channels"}),
            "compute": Compute(runs_uri="runs/eegcvpr40"),
        }
    )
