"""What a language model conditioned on an image does, each task once, on the protocol of `runtime/`."""
