"""Tensors in files: numpy's, ONNX's, safetensors, and what Polygraphy and trtexec write and load."""
