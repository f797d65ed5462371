"""Evaluation: the engine as a model of lmms-eval, so that pruning can be checked on the benchmarks that it knows.

lmms-eval finds `manifest.py` by its entry point `lmms_eval.models`, and loads `model.py` when somebody asks for
`--model star_batch`. The other modules do not know lmms-eval. Nothing here knows Ray.
"""
