"""The tab that says what this is, who found it, and what one may do with it."""

from collections.abc import Callable, Sequence

import gradio as gr

from demo.service.service import Service

_ABOUT = """
## What this is

**FlowTurbo** ([Zhao et al., NeurIPS 2024](https://arxiv.org/abs/2409.18128)) samples
flow-matching models in about half the time. Along a flow's path the velocity soon settles. So a
heavy *predictor* takes the first steps by Heun's method, two evaluations each; a *pseudo
corrector* reuses the last velocity, one evaluation each; and a *refiner* of 5% of the size (8% and
4% in the bundled models) corrects the velocity in the last steps. A plan such as H1P5R3 says how
many of each.

It stands on rectified flow ([Liu et al., 2209.03003](https://arxiv.org/abs/2209.03003)),
InstaFlow ([Liu et al., ICLR 2024](https://arxiv.org/abs/2309.06380)) and
SiT ([Ma et al., ECCV 2024](https://arxiv.org/abs/2401.08740)).

## Keys

Ctrl+Enter generates or compares, and Esc stops, wherever the focus is. Arrows move among classes,
and choose among presets. A number acts on Enter, or when it is left, if it was changed.

## Licence

MIT, for the code, the data and the bundled weights. Released checkpoints have licences of their
own. The pictures are made by a program: do with them what you like.
"""


def build(
    tab: str, services: Sequence[Service], page: gr.Blocks, takes: Callable[[str], bool]
) -> None:
    """Add the text, and the cards of the models that run."""
    with gr.Column(elem_classes="about"):
        gr.Markdown(_ABOUT)
        for card in filter(None, (service.model.card for service in services)):
            gr.Markdown(card, elem_classes="card-of-model", sanitize_html=True)
