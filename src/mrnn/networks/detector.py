"""A detector of transformers as a proposer of regions."""

import torch
from PIL import Image

from mrnn.encoders.proposals import LEAST_SCORE, Proposals, Proposer, ordered
from mrnn.files import first_line
from mrnn.networks.huggingface import quiet
from mrnn.networks.torch_network import fingerprint


def transformers_detector(name: str) -> Proposer:
    """A detector of the DETR kind (DETR, YOLOS, RT-DETR) by hub name or from a local folder.

    Raises:
        ValueError: transformers is not installed, or the model cannot be had.
    """
    try:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection
    except ImportError:
        raise ValueError("huggingface detectors need transformers: pip install 'mrnn[hf]'") from None
    try:
        with quiet():
            model = AutoModelForObjectDetection.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
            processor = AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
    except Exception as error:  # a damaged folder makes transformers raise almost anything
        raise ValueError(f"huggingface:{name} cannot be loaded ({first_line(error)})") from None
    model.eval()

    @torch.inference_mode()
    def propose(photo: Image.Image) -> Proposals:
        output = model(**processor(images=photo, return_tensors="pt"))
        # On a photo of size 1 x 1 pixels are shares
        (found,) = processor.post_process_object_detection(output, threshold=LEAST_SCORE, target_sizes=[(1, 1)])
        return ordered(found["boxes"].numpy(), found["scores"].numpy())

    described = model.config.to_json_string() + processor.to_json_string()
    return Proposer(f"huggingface:{name}", fingerprint(model, described), propose)
