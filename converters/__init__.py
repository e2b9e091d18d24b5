"""From a base model and a recipe to a variant: TFLite, ONNX and OpenVINO artifacts with manifests."""
