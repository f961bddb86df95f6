"""The one exception that a person is meant to read."""


class RecoError(Exception):
    """Something a user can mend: the message names the file or key and the remedy.

    The command line prints it as one line and exits with status 1; any other exception is a bug
    and keeps its traceback.
    """


EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm"), "torch"),
    "open_clip": "open-clip",
    "transformers": "open-clip",
    "segmentation_models_pytorch": "train",
    "gradio": "app",
    **dict.fromkeys(("matplotlib", "pandas", "snakemake", "debian", "zstandard"), "workflow"),
}
"""Module -> the extra of this package that installs it."""


def not_installed(error: ModuleNotFoundError) -> RecoError:
    """The line for a module that only an extra installs; of another module, the error again."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        raise error
    return RecoError(f"the package {module} is not installed: pip install 'reco[{EXTRAS[module]}]'")
