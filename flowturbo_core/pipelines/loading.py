"""Loading a model of any kind."""

from pathlib import Path

import torch

from flowturbo_core.models.catalog import model_folder, read_index
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline


def load_pipeline(
    name_or_path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> FlowPipeline:
    """Load a model by the pipeline that its index names.

    Raises ValueError, naming the folder, if it is none that is known here, or broken.
    """
    kinds = (ClassConditionalPipeline, TextToImagePipeline)
    by_name = {name: kind for kind in kinds for name in kind.INDEX_CLASSES}
    index = read_index(model_folder(name_or_path), *by_name)
    return by_name[index["_class_name"]].from_pretrained(name_or_path, device, dtype)
