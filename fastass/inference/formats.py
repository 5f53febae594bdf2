"""The formats of predictions and exports, for help texts: this module loads no torch."""

EXPORT_FORMATS = ("onnx", "torch-export", "safetensors")
PREDICTION_FORMATS = ("trainIds", "labelIds", "color", "overlay")
MEASURED_IMAGES = 20  # the fewest images for `predict --fps`
