"""The assets of `harness demo`: a trained model, labelled images, an experiment."""
