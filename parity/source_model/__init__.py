"""The user's own PyTorch model: where it is loaded, exported, recorded, and mapped to the tensors of its ONNX graph."""
