"""The demo: a small vision-language model of our own, its labelled scenes and its training."""
