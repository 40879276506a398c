"""Speed of SepViT and of model files: what `keras-sepvit benchmark` does.

`settings` says what to measure; `run` starts a process for each backend, in which `worker`
times the `programs` in turns; `report` shows what came of it. No Keras is imported here.
"""
