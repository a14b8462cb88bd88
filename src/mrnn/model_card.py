"""The README.md of a saved model, written from its config alone."""

import json
from pathlib import PurePath
from typing import Any

_HEAD = """\
---
library_name: mrnn
license: apache-2.0
pipeline_tag: image-to-text
tags: [image-captioning, image-text-retrieval, m-rnn]
---

# {title}

A language model conditioned on an image, after "Explain Images with Multimodal Recurrent Neural Networks"
(Mao et al. 2014, arXiv 1410.1090). It writes captions and scores given ones by likelihood.

```python
import mrnn

pipe = mrnn.load("{name}")
print(pipe.caption("photo.jpg")[0][0].text)
```
"""


def model_card(name: str, config: dict[str, Any]) -> str:
    """Markdown with the model's sizes, provenance, figures and limits.

    Args:
        name: What `mrnn.load` is to be called with.
        config: What `config.json` holds.
    """
    parts = [_HEAD.format(title=PurePath(name).name, name=name)]
    model = {k: len(v) if isinstance(v, list) else v for k, v in config["model"].items() if k != "name"}
    parts.append(f"## Model\n\n`{config['model']['name']}` on `{config['encoder']['name']}`: {_inline(model)}.\n")
    if "training" in config:
        t = config["training"]
        parts.append(
            "## Training\n\n"
            f"Data: {t['data']}; fingerprint `{t['data_fingerprint'][:16]}`. "
            f"Recipe `{t['recipe_name']}`: `{t['command']}`.\n\n"
            f"Dev perplexity {t['dev_perplexity']:.2f} after epoch {t['best_epoch']}. "
            f"Code: {_inline(config.get('code', {}))}.\n"
        )
    for result in config.get("results", []):
        rows = "\n".join(f"| {k} | {v:.4g} |" for k, v in result["figures"].items())
        parts.append(
            f"## Figures on {result['data']}, split {result['split']}\n\nBy `{result['command']}`.\n\n"
            f"| figure | value |\n|---|---|\n{rows}\n"
        )
    if "provenance" in config:
        parts.append(f"## Provenance and limits\n\n{config['provenance']}\n")
    return "\n".join(parts)


def _inline(fields: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in fields.items()) or "not known"
