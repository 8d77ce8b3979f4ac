"""TensorRT and TensorRT-RTX: engines built from ONNX files, run, looked into, and watched."""
