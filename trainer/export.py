"""Export weights: bitscale export RUN --out DIR [--format npz]

timm: a folder for timm.create_model("local-dir:DIR", pretrained=True), with our logits. npz: BiT's own format.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import json

from data_pipelines.common.cli import entry_point, parse
from trainer.models.export_settings import Export


@entry_point
def main() -> None:
    """Parse the command line and export."""
    settings = parse(Export, __doc__)
    # Here because it comes with PyTorch, which the help does not need.
    from trainer.models.export_weights import export

    notes = export(settings)
    for note in notes:
        print(note)
    source = json.dumps(f"local-dir:{settings.out}", ensure_ascii=False)
    load = f"timm.create_model({source}, pretrained=True)" if settings.format == "timm" else ""
    print(f"{settings.out}  {load}".rstrip())


if __name__ == "__main__":
    main()
