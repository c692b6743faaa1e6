"""Which networks of a front are chosen: within limits, near a preference, or by their trade-off."""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from acc_predictor import get_acc_predictor, predictor_class
from search.archive import Record, arch_key, objectives
from search.constraints import Limit, idle_limits, parse_limits, parse_number
from search_space import SearchSpace
from utils.errors import UserError, warn
from utils.pareto import asf, high_tradeoff, non_dominated

if TYPE_CHECKING:
    from search.finished import FinishedSearch

FIRST_OBJECTIVE = "top1"
SIGNIFICANT_DIGITS = 3
# By what networks are chosen: their measured accuracies, or what a model of all of them expects.
MEASURED, MODEL = "measured", "model"
EXPECTING = "nngp"  # that model
# The part of a binomial standard deviation that is an architecture's own: the rest is the same for
# all that are scored on the same images (`benchmarks/results/images.md`: 0.71 on digits).
OWN_PART = 0.7


def check_names(sec_obj: str, place: str) -> None:
    """Raises UserError where the names of objectives cannot stand in queries and in folder names.

    Args:
        sec_obj: names joined by `+`.
        place: where they stand, for the message.
    """
    if not all(re.fullmatch(r"[A-Za-z_][\w@]*", part, re.ASCII) for part in sec_obj.split("+")):
        raise UserError(f"{place}: {sec_obj[:60]!r} is no name of a second objective, such as "
                        "flops, params, cpu, gpu64")


def match_objective(name: str, sec_obj: str, place: str) -> str:
    """Returns the objective that `name` means: `top1`, or one of `sec_obj`, its batch optional.

    Raises:
        UserError: neither; the message lists the known names.
    """
    known = sec_obj.split("+")
    found = [full for full in known if name in (full, full.rstrip("0123456789"))]
    if name != FIRST_OBJECTIVE and not found:
        raise UserError(f"{place}: unknown objective {name!r}; this search has "
                        f"{', '.join([FIRST_OBJECTIVE, *known])}")
    return found[0] if found else name


def parse_preference(text: str | None, sec_obj: str) -> dict[str, float]:
    """Returns {objective: preferred value} of `top1#80+flops#150`; {} for None and `None`.

    Objectives are matched by name, in any order; each may be left out.

    Raises:
        UserError: malformed, an unknown or repeated name, or a value out of range.
    """
    if text is None or text.strip().lower() == "none":
        return {}
    wanted: dict[str, float] = {}
    for part in text.split("+"):
        name, separator, value = part.strip().partition("#")
        if not separator:
            raise UserError(f"--prefer {text!r}: write objective#value, joined by +, as "
                            f"{FIRST_OBJECTIVE}#80+{sec_obj.split('+')[0]}#150")
        name = match_objective(name.strip(), sec_obj, f"--prefer {text!r}")
        if name in wanted:
            raise UserError(f"--prefer {text!r}: {name} is given twice")
        wanted[name] = parse_number(value, f"--prefer {text!r}")
    if wanted.get(FIRST_OBJECTIVE, 0) > 100:
        raise UserError(f"--prefer {text!r}: {FIRST_OBJECTIVE} is an accuracy in percent, 0..100")
    return wanted


def parse_constraints(text: str | None, sec_obj: str) -> list[Limit]:
    """Returns the limits of `flops<=300,top1>=75`; [] for None.

    Raises:
        UserError: malformed, an unknown name, or a probability, which a search alone knows.
    """
    limits = parse_limits(text, lambda name, place: match_objective(name, sec_obj, place),
                          sec_obj.split("+")[0])
    for limit in limits:
        if limit.probability is not None:
            raise UserError(f"--constraint {limit}: a probability belongs into the --constraint "
                            f"of a search; leave out :{limit.probability:g}")
    return limits


def limits_of_search(found: "FinishedSearch") -> list[Limit]:
    """Returns the limits of a search on its objectives, which some of its networks may miss.

    A latency that is measured, or learned, is known only when a network has been evaluated; limits
    on other costs are exact, so that every evaluated network is within them.
    """
    names = {FIRST_OBJECTIVE, *found.sec_obj.split("+")}
    limits = parse_limits(found.settings.get("constraint"), lambda name, place: name)
    return [replace(limit, probability=None) for limit in limits if limit.name in names]


def default_trust(found: "FinishedSearch") -> str:
    """Returns by what the networks of a search are chosen where no flag names it.

    The strategy `msunas` chooses as the paper does; benchmarks answer without the noise of images.
    """
    noisy = found.settings.get("evaluator") == "ofa" and found.settings.get("strategy") != "msunas"
    enough = len(found.stats.archive) >= predictor_class(EXPECTING).min_points
    return MODEL if noisy and enough and found.space is not None else MEASURED


def images_of(settings: Mapping[str, Any]) -> int | None:
    """Returns how many images scored the networks of a search; None where its flags do not say."""
    return None if settings.get("test") else settings.get("vld_size")


def expected_errors(records: Sequence[Record], X: np.ndarray, space: SearchSpace, seed: int,
                    n_images: int | None = None) -> np.ndarray:
    """Returns the (n, 2) top-1 errors that the model expects, and standard deviations, in percent.

    The arguments are those of `trusted`.
    """
    errors = np.array([record.top1_err for record in records])
    binomial = np.sqrt(np.mean(errors * (100 - errors)) / n_images) if n_images else 0.0
    model = get_acc_predictor(EXPECTING, X, errors, seed=seed, space=space,
                              least_noise=OWN_PART * float(binomial))
    mean, std = model.predict(X, return_std=True)
    return np.hstack([np.clip(mean, 0, 100), std])


def trusted(records: Sequence[Record], X: np.ndarray, space: SearchSpace, seed: int,
            n_images: int | None = None) -> tuple[list[Record], dict[str, tuple[float, float]]]:
    """Returns the records with the errors that a Gaussian process expects instead of the measured.

    A front of measurements collects the architectures that were lucky on the images that they were
    scored on. The process (`nngp`) learns how noisy the measurements are, and its mean compares an
    architecture with all that are like it.

    Args:
        records: n of an archive.
        X: (n, n_var) their vectors.
        space: that they are from.
        seed: of the process.
        n_images: how many scored each architecture; their sampling error is the least noise.

    Returns:
        The records, and the expected top-1 accuracy in percent of each architecture with its
        standard deviation, by `arch_key`.
    """
    expected = expected_errors(records, X, space, seed, n_images).tolist()
    return ([record._replace(top1_err=error)
             for record, (error, _) in zip(records, expected, strict=True)],
            {arch_key(record.arch): (100 - error, std)
             for record, (error, std) in zip(records, expected, strict=True)})


def front_within(records: Sequence[Record], limits: Sequence[Limit], sec_obj: str,
                 signs: np.ndarray | float = 1.0, typed: bool = True) -> list[Record]:
    """Returns the non-dominated records within the limits, by ascending second objective.

    Typed limits that exclude none of the records are a warning each.

    Args:
        records: of the archive.
        limits: of `parse_constraints`, or of `limits_of_search`.
        sec_obj: names of the objectives.
        signs: (m,) what makes them minimised, see `Stats.signs`.
        typed: whether the limits are those of a flag, and not of the search.

    Raises:
        UserError: there is none; the message says what the front offers.
    """
    values = objectives(records)
    front = np.flatnonzero(non_dominated(values * signs))
    front = front[np.argsort(values[front, 1], kind="stable")]
    columns = {FIRST_OBJECTIVE: 100 - values[:, 0],
               **dict(zip(sec_obj.split("+"), values[:, 1:].T, strict=True))}
    for line in idle_limits(limits, columns, "network of the search") if typed else ():
        warn(line)
    top1, inside = columns[FIRST_OBJECTIVE][front], np.ones(len(front), dtype=bool)
    for limit in limits:
        inside &= limit.holds(columns[limit.name][front])
    if not inside.any():
        first, last = (", ".join(f"{record:g}" for record in values[i, 1:])
                       for i in front[[0, -1]])
        which = "the --constraint" if typed else \
            f"the search's {', '.join(map(str, limits))} (--constraint 'top1>=0' chooses from all)"
        raise UserError(f"no network of the front is within {which}; it has {len(front)}, "
                        f"from top1 {top1[0]:.2f} at {first} to top1 {top1[-1]:.2f} at {last}")
    return [records[i] for i in front[inside]]


def picked(records: Sequence[Record], numbers: Sequence[int]) -> list[Record]:
    """Returns the records of an archive with these numbers, by ascending second objective.

    Raises:
        UserError: the archive has no such number.
    """
    check_numbers(numbers, len(records))
    return sorted((records[number] for number in sorted(set(numbers))), key=lambda r: r.sec_obj)


def check_numbers(numbers: Iterable[int], n: int) -> None:
    """Raises UserError where one of the picked numbers is not in an archive of `n` records."""
    unknown = [number for number in numbers if number >= n]
    if unknown:
        raise UserError(f"--pick {unknown[0]}: the archive holds networks 0..{n - 1}")


def preferred_point(F: np.ndarray, wanted: dict[str, float], names: Sequence[str]) -> np.ndarray:
    """Returns the (m,) point that is preferred: the error, then the objectives.

    Of two objectives, the one without a preference gets the value that the front `F` (n, 2;
    ascending second objective) has, between its points, where the other one is as preferred. Of
    more, those without a preference get the front's median.
    """
    columns = (FIRST_OBJECTIVE, *names)
    point = np.array([wanted.get(name, np.nan) for name in columns])
    point[0] = 100 - point[0]
    missing = np.isnan(point)
    if len(point) == 2 and missing.any():
        i, other = int(missing.argmax()), int(missing.argmin())
        order = np.argsort(F[:, other], kind="stable")
        point[i] = np.interp(point[other], F[order, other], F[order, i])
    return np.where(np.isnan(point), np.median(F, axis=0), point)


def select(front: Sequence[Record], n: int, wanted: dict[str, float], sec_obj: str,
           signs: np.ndarray | float = 1.0) -> list[int]:
    """Returns the indices of the chosen records of a front, ascending.

    With preferences: the `n` smallest achievement scalarising values. Without: the `n` highest
    trade-offs. The most accurate one is always added, so `n + 1` may come back.

    Args:
        front: non-dominated records by ascending second objective.
        n: how many.
        wanted: {objective: preferred value}, may be empty.
        sec_obj: names of the objectives.
        signs: see `front_within`.
    """
    values = objectives(front)
    if wanted:
        point = preferred_point(values, wanted, sec_obj.split("+"))
        reciprocal = point**2 / np.where(values > 0, values, 1e-10)  # of what is maximised
        costs = np.where(np.asarray(signs) < 0, reciprocal, values)
        chosen = np.argsort(asf(costs, point), kind="stable")[:n]
    else:
        chosen = high_tradeoff(values * signs, n)
    return sorted({*chosen.tolist(), most_accurate(front)})


def most_accurate(records: Sequence[Record]) -> int:
    """Returns the index of the record with the least error."""
    return int(np.argmin([record.top1_err for record in records]))


def apart(values: Mapping[str, Any], columns: Container[str], kind: str) -> dict[str, Any]:
    """Returns values in which one that is called as a column is `<name> (<kind>)`."""
    return {f"{key} ({kind})" if key in columns else key: value for key, value in values.items()}


def places(front: Sequence[Record], chosen: Sequence[int], objective: str,
           by_hand: bool = False) -> list[str]:
    """Returns where each chosen network lies on the front.

    Args:
        front: by ascending second objective.
        chosen: indices in it.
        objective: name of the second objective.
        by_hand: whether somebody picked them from the archive; `front` is what was picked then.
    """
    lead = "chosen by hand" if by_hand else "{} of {} by ascending {}"
    return [f"{lead.format(i + 1, len(front), objective)}: {front[i].sec_obj:g} {objective}"
            for i in chosen]


def folder_names(values: Sequence[float], sec_obj: str) -> list[str]:
    """Returns `net-<objective>@<value>` for each value, three digits or as many as tell them apart.

    `net-flops@312`, `net-cpu@15.2`. Equal values, which more than two objectives allow, are told
    apart by a number.
    """
    name, digits, names = sec_obj.split("+")[0], SIGNIFICANT_DIGITS, list[str]()
    while len(set(names)) < len(set(values)):
        names = [f"net-{name}@{_rounded(value, digits)}" for value in values]
        digits += 1
    return [each if names.index(each) == i else f"{each}-{names[:i].count(each) + 1}"
            for i, each in enumerate(names)]


def _rounded(value: float, digits: int) -> str:
    whole = len(f"{value:.0f}")
    return f"{value:.{max(0, digits - whole)}f}"
