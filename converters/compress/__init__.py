"""Compression of Keras models before export: one module per step, each with `apply(model, parameters, context)`.

`converters.steps` names them without importing any of them; `converters.compress.context` is the contract. Keras only here.
"""
