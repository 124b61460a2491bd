"""Students for hosts without Limbeck: ONNX, torch.export, TorchScript, each with a parity certificate."""
