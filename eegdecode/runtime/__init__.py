"""Where Ray lives: the stages of a run on a cluster, the cluster of one machine, serving, and the only MLflow.

Nothing of Ray or MLflow is in a signature outside this package.
"""
