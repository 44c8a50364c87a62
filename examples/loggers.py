"""Loggers of your own, beside metrics.jsonl: Weights & Biases, and MLflow.

    pip install wandb && python train.py --import=examples/loggers.py --config.train.loggers=wandb
    pip install mlflow && python train.py --import=examples/loggers.py --config.train.loggers=mlflow

Several names with commas log to all of them. A resumed run goes on in the log of the stopped one.
"""

from collections.abc import Mapping

from lm_jax.loggers import LOGGERS, LoggedRun


@LOGGERS.register("wandb")
class WeightsAndBiases:
    """A run of the project lm_jax; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, run: LoggedRun):
        import wandb

        names = {"project": "lm_jax", "name": run.directory.name, "id": run.id}
        self._run = wandb.init(**names, resume="allow", config=dict(run.config), dir=str(run.directory))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Uploads what is left."""
        self._run.finish()


@LOGGERS.register("mlflow")
class MLflow:
    """A run of the experiment lm_jax, where MLFLOW_TRACKING_URI says; by default in ./mlruns."""

    def __init__(self, run: LoggedRun):
        from mlflow.tracking import MlflowClient

        self._client, name = MlflowClient(), "lm_jax"
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        earlier = self._client.search_runs([experiment], f"tags.lm_jax_run = '{run.id}'")
        self._run = (earlier or [self._client.create_run(experiment, tags={"lm_jax_run": run.id})])[0]
        for name, value in run.config.items() if not earlier else ():
            self._client.log_param(self._run.info.run_id, name, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers of a step."""
        for name, value in values.items():
            self._client.log_metric(self._run.info.run_id, name, value, step=step)

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._run.info.run_id)
