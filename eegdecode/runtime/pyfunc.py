"""A bundle as an MLflow pyfunc model: what `mlflow.pyfunc.load_model` calls. The model is the folder; no pickle.

Needs no MLflow itself.
"""

import numpy as np
import pandas as pd

import eegdecode
from eegdecode.reconstruct.reconstructor import Reconstructor

TOP = 5


class BundleModel:
    """Names concepts: trials in, one row a trial out."""

    def __init__(self, model: Reconstructor) -> None:
        self.model = model

    def predict(self, model_input: np.ndarray, params: dict[str, str] | None = None) -> pd.DataFrame:
        """Return `concept` and the probabilities of the most probable concepts, in columns `top1`, `p1`, and so on.

        Parameters
        ----------
        model_input
            Float32 (N, C, T), microvolt.
        params
            `subject`: whose trials they are, as the bundle spells them; without it, or with another name, the trials
            are of a person that training did not see.
        """
        subject = params.get("subject") if params else None
        probability_NK = self.model.predict_proba(np.asarray(model_input, np.float32), subject=subject)
        best_NK = np.argsort(-probability_NK, axis=1, kind="stable")[:, :TOP]
        columns: dict[str, np.ndarray] = {"concept": self.model.classes_[best_NK[:, 0]]}
        for k in range(best_NK.shape[1]):
            columns[f"top{k + 1}"] = self.model.classes_[best_NK[:, k]]
            columns[f"p{k + 1}"] = np.take_along_axis(probability_NK, best_NK[:, k : k + 1], axis=1)[:, 0]
        return pd.DataFrame(columns)


def _load_pyfunc(path: str) -> BundleModel:
    """Load the model; the name is MLflow's."""
    return BundleModel(eegdecode.load(path))
