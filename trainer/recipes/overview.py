"""The short help of `pretrain`: recipes, sizes of models, and the flags that are used most."""

from data_pipelines.common.command_help import first_sentence, grouped_help
from data_pipelines.common.program import program
from trainer.recipes.named import RECIPES
from trainer.recipes.paper import imagenet1k, imagenet21k

_USAGE = {
    "RECIPE [flags]": "a recipe below; a run that is already in its folder goes on",
    "my.toml [flags]": 'settings in a file, on top of a recipe: base = "embedded"',
    "RUN/config.json": "repeat a run, in a new folder",
}
_SETS = {
    "chexpert": "CheXpert",
    "chexpert_mimic": "CheXpert and MIMIC-CXR",
    "chexpert_mimic_nih": "CheXpert, MIMIC-CXR and NIH ChestX-ray14",
    "chexpert_mimic_nih_padchest": "CheXpert, MIMIC-CXR, NIH ChestX-ray14 and PadChest",
    "mimic": "MIMIC-CXR",
    "nih": "NIH ChestX-ray14",
    "padchest": "PadChest",
}
_SIZES = {
    "r14x0.5": "3.0 M parameters; trains on a CPU",
    "r26x1": "16 M; small images, or a small GPU",
    "r50x1": "25.5 M; the paper's smaller model",
    "r50x3": "217 M",
    "r101x1": "44.5 M",
    "r101x3": "388 M",
    "r152x2": "236 M",
    "r152x4": "937 M; the paper's larger model",
}
_FLAGS = {
    "--data.sets NAME ...": "prepared sets, by name or folder",
    "--model.name NAME": "size of the model",
    "--data.image-size N": "pixels that the model sees; --data.resize follows",
    "--schedule.epochs N": "length of training; or --schedule.steps",
    "--optim.base-lr X": "learning rate for each 256 images of a batch",
    "--global-batch-size N": "images of one step, over all ranks",
    "--out DIR": "run folder; runs/NAME without it",
    "--no-resume": "begin another run beside one that is in the folder",
    "--plan": "say what the run would be, and stop",
}


def overview() -> str:
    """The text of `pretrain --help`."""
    natural = {
        f"{name}_MODEL": first_sentence(recipe.__doc__).removeprefix("The paper's pre-training on ")
        for name, recipe in (("imagenet1k", imagenet1k), ("imagenet21k", imagenet21k))
    }
    natural["imagenet1k_r50x1_120"] = "ImageNet-1k as the authors' program is configured: 120 epochs, 15 of warm-up"
    xrays = {f"{name}_MODEL": text for name, text in _SETS.items()}
    groups = {
        "Usage": {f"{program()} {words}": text for words, text in _USAGE.items()},
        "Demos": {
            name: first_sentence(RECIPES[name].__doc__).removeprefix("Demo: ") for name in ("embedded", "phantom")
        },
        "Your own images": {"own --data.sets NAME": "looks at the set and the machine, and says what it chose and why"},
        "ImageNet (MODEL: r50x1 or r152x4)": natural,
        "Chest X-rays (MODEL: r50x1 or r152x4)": xrays,
        "Sizes of models (with a head for 1,000 classes)": _SIZES,
        "Flags used most": _FLAGS,
    }
    after = f"All flags: {program()} RECIPE --help. Without a recipe the embedded demo runs."
    return grouped_help("Pre-train a model.", groups, after)
