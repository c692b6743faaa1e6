"""A parser whose defaults a file can replace."""

import argparse
from typing import Any

from cli.scripts import Parser
from cli.types import checked_values
from utils.errors import UserError, note
from utils.files import read_yaml


class ConfigParser(Parser):
    """A parser whose defaults a YAML file can replace: `-c config.yaml`, such as an args.yaml.

    What stands in the file is not among `args.typed`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("-c", "--config", metavar="YAML", help="file of defaults for all flags")

    def parse_args(  # type: ignore[override]  # the base class has overloads
            self, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        """Parses as usual; what stands on the command line wins over the file."""
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("-c", "--config")
        path = finder.parse_known_args(args)[0].config
        if path:
            try:
                self._set_from_file(path)
            except UserError as error:
                self.error(str(error))
        return super().parse_args(args, namespace)

    def _set_from_file(self, path: str) -> None:
        values, known = read_yaml(path, "YAML file of flags"), {a.dest for a in self._actions}
        unknown = [key for key in values if key not in known]
        if unknown:
            raise UserError(f"{path}: unknown flag {unknown[0]!r}; known are those of --help")
        if values.pop("download", None):  # the file may be anybody's
            note(f"{path}: its 'download' is left out; type --download")
        self.set_defaults(**checked_values(self, values, path))
