"""Export a run: bitscale export RUN --out DIR [--format onnx]

timm: a folder for timm.create_model("local-dir:DIR", pretrained=True), with our logits. npz: BiT's own format.
onnx, torch: the network from uint8 pixels to logits, with classes, thresholds and preparation, and a model card.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import json

from data_pipelines.common.cli import entry_point, parse
from trainer.models.export_settings import GRAPHS, ONNX, TORCH, Export


@entry_point
def main() -> None:
    """Parse the command line and export."""
    settings = parse(Export, __doc__)
    settings.require_source()
    # Here because they come with PyTorch, which help and refusals do not need.
    if settings.format in GRAPHS:
        from trainer.evaluation.exporting.export_graph import export_graph as export
    else:
        from trainer.models.export_weights import export

    for note in export(settings):
        print(note)
    print(f"{settings.out}  {_how_to_load(settings)}".rstrip())


def _how_to_load(settings: Export) -> str:
    def path(name: str) -> str:
        return json.dumps(str(settings.out / name), ensure_ascii=False)

    if settings.format == "onnx":
        return f"onnxruntime.InferenceSession({path(ONNX)})"
    if settings.format == "torch":
        return f"torch.export.load({path(TORCH)}).module()"
    if settings.format == "timm":
        source = json.dumps(f"local-dir:{settings.out}", ensure_ascii=False)
        return f"timm.create_model({source}, pretrained=True)"
    return ""


if __name__ == "__main__":
    main()
