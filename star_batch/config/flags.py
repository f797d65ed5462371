"""Which keys the command line has flags for; every other key goes by `--set`. Knows no command."""

FLAGS = {
    "input.path": "--input",
    "input.kind": "--kind",
    "output.path": "--output",
    "model.name": "--model",
    "pruning.method": "--method",
    "pruning.keep": "--keep",
    "input.prompt_column": "--prompt-column",
    "input.prompt": "--prompt",
    "input.system": "--system",
    "input.questions": "--questions",
    "input.choices": "--choices",
    "input.keep_columns": "--keep-columns",
    "decoding.max_new_tokens": "--max-new-tokens",
    "cluster.actors": "--actors",
    "model.device": "--device",
    "model.dtype": "--dtype",
    "input.limit": "--limit",
    "cluster.address": "--ray-address",
    "metrics.pushgateway": "--pushgateway",
    "output.samples": "--samples",
    "output.retry_failed": "--retry-failed",
    "output.overwrite": "--overwrite",
}
"""The keys that have a flag of their own."""

FORMER_FLAGS = {
    "--revision": "model.revision",
    "--id-column": "input.id_column",
    "--image-column": "input.image_column",
    "--reference-column": "input.reference_column",
    "--duplicates": "input.duplicates",
    "--max-failed": "faults.max_failed",
    "--metrics-port": "metrics.port",
}
"""Flags that there were once, so that whoever types one is told what to type instead."""
