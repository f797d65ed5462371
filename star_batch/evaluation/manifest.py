"""What lmms-eval reads at its start: the name of our model and where its class is. Loads no torch."""

from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    return ModelManifest(model_id="star_batch", chat_class_path="star_batch.evaluation.model.StarBatch")
