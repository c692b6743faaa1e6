"""Where the modules lie in a wheel: below msunas_cli/project, so that none shadows another package.

Everything else about the package stands in pyproject.toml.
"""

from setuptools import find_packages, setup

HOME = "msunas_cli.project"
OWN_NAMES = ["msunas_cli", "msunas_timm"]  # what an installation adds to site-packages
TOP = find_packages(exclude=["tests", "tests.*", "benchmarks", *OWN_NAMES])

setup(
    packages=[*OWN_NAMES, HOME, f"{HOME}.scripts", f"{HOME}.data",
              *(f"{HOME}.{name}" for name in TOP)],
    package_dir={HOME: ".", f"{HOME}.scripts": "scripts", f"{HOME}.data": "data",
                 **{f"{HOME}.{name}": name.replace(".", "/") for name in TOP}},
    package_data={f"{HOME}.scripts": ["*.sh"], f"{HOME}.data": ["*"],
                  **{f"{HOME}.{name}": ["assets/**"] for name in TOP}},
)
