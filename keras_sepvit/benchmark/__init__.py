"""Speed and memory of SepViT and its peers: what `keras-sepvit benchmark` does.

Data flows one way: `settings` says what to measure; `run` starts a process for each
backend, in which `worker` builds the models of the `catalogue` and times them in turns;
`report` and `picture` show what came of it. Importing this package imports no Keras.
"""
