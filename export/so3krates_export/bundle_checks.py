"""What a reader of bundles asks of JSON and of schedules; csrc/runtime/bundle_checks.cpp asks the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

LARGEST_HEADER = 2**24  # bytes
DEEPEST_JSON = 64  # objects and lists within each other
LONGEST_TEXT = 2**16  # bytes of a name or a string of the manifest
SHOWN = 24  # characters of a text in a message
NO_STEP = -1  # in "from": no step of the schedule has computed it

_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
# What moves a terminal's cursor, hides text or turns its direction: C0, DEL, C1, separators, marks of direction.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class BundleError(ValueError):
    """A bundle that cannot be read or must not be written; one line, "PATH: what is wrong"."""


def need(condition: bool, message: str) -> None:
    """Raises BundleError with the message unless the condition holds."""
    if not condition:
        raise BundleError(message)


def load_json(text: str | bytes, what: str) -> dict[str, Any]:
    """An object whose depth is limited, in time that grows with its length only.

    Raises BundleError; `what` is the subject of its message.
    """
    damaged = f"is damaged, or no so3krates bundle: {what}"
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    need(_depth_is_sound(data), f"{damaged} is not JSON of at most {DEEPEST_JSON} objects and lists within each other")

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{damaged} is not JSON ({error})") from None
    need(type(value) is dict, f"{damaged} is not a JSON object")
    return value


def _depth_is_sound(data: bytes) -> bool:
    depth = 0
    for token in _TOKENS.finditer(data):
        first = token.group()[:1]
        if first in b"[{":
            depth += 1
            if depth > DEEPEST_JSON:
                return False
        elif first in b"]}":
            depth -= 1
    return True


def check_texts(value: Any, what: str) -> None:
    """Raises BundleError where a name or a string is too long, or would do more than be read when it is printed."""
    for text in _texts(value):
        start = json.dumps(text[:SHOWN])
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise BundleError(f"is damaged, or no so3krates bundle: {what} is not JSON ({start})") from None
        need(size <= LONGEST_TEXT, f"{what} holds a text of {size} bytes, and at most {LONGEST_TEXT} are read")
        need(_CONTROLS.search(text) is None, f"{what} holds control characters in a text: {start}")


def _texts(value: Any) -> Iterator[str]:
    """Every name and string."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, entry in sorted(value.items()):
            yield name
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)


def printable(value: Any) -> Any:
    """The same with a space for every character that `check_texts` refuses."""
    if isinstance(value, str):
        return _CONTROLS.sub(" ", value)
    if isinstance(value, Mapping):
        return {printable(name): printable(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [printable(entry) for entry in value]
    return value


def check_network(manifest: Mapping[str, Any]) -> None:
    """Raises BundleError where the manifest contradicts the network's hyper-parameters."""
    for name, key in (("cutoff", "cutoff"), ("message_passing_steps", "layers")):
        own, network = manifest[name], manifest["model"].get(key)
        if network is None:
            continue
        where = f'manifest: the network\'s "{key}"'
        need(type(network) in (int, float) and abs(network) < 2**1000, f"{where} is not a number")
        need(float(network) == float(own), f'{where} is {network:.10g}, but "{name}" is {own:.10g}')


def last_writers(steps: list[dict[str, Any]], count: int | None = None) -> dict[str, int]:
    """The step that computed each array last, after the first `count` steps."""
    writers: dict[str, int] = {}
    for index, step in enumerate(steps[:count]):
        writers |= dict.fromkeys(step.get("outputs", ()), index) | dict.fromkeys(step.get("refresh", ()), index)
    return writers


def with_sources(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every step says which step's values it reads."""
    result = []
    for index, step in enumerate(steps):
        writers = last_writers(steps, index)
        names = step.get("inputs", step.get("refresh", ()))
        result.append({**step, "from": [writers.get(name, NO_STEP) for name in names]})
    return result


def check_sources(manifest: Mapping[str, Any]) -> None:
    """Every value that is read has been computed, and by the step that the manifest says: none is missing or moved."""
    buffers, results = manifest["buffers"], manifest.get("results")
    need(results is not None or manifest["version"] < 3, 'manifest: "results" is missing')
    need(results is None or type(results) is dict, 'manifest: "results" is not an object')
    for name, steps in sorted(manifest["schedules"].items()):
        writers: dict[str, int] = {}
        for index, step in enumerate(steps):
            where = f'manifest: step {index} of schedule "{name}"'
            read = step.get("inputs", step.get("refresh", []))
            for array in read:
                is_computed = array in buffers and buffers[array]["role"] != "input"
                is_filled_here = array in step.get("outputs", ())
                need(
                    not is_computed or is_filled_here or array in writers,
                    f'{where} reads "{array}", which no step before it computes',
                )
            sources = [writers.get(array, NO_STEP) for array in read]
            if results is not None or "from" in step:
                need(
                    _is_integers(step.get("from")) and step["from"] == sources,
                    f'{where} does not read what its "from" says: steps are missing or in another order',
                )
            written = step.get("outputs", step.get("refresh", []))
            writers |= dict.fromkeys(written, index)
        if results is None:
            continue
        given = {array: index for array, index in writers.items() if buffers[array]["role"] == "output"}
        declared = results.get(name)
        need(
            type(declared) is dict and _is_integers(list(declared.values())) and declared == given,
            f'manifest: the schedule "{name}" does not end as "results" says: steps are missing or in another order',
        )


def results_of(manifest: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """For "results": the step of each schedule that computes each output last."""
    return {
        name: {
            array: index
            for array, index in last_writers(steps).items()
            if manifest["buffers"][array]["role"] == "output"
        }
        for name, steps in manifest["schedules"].items()
    }


def _is_integers(value: Any) -> bool:
    return type(value) is list and all(type(entry) is int for entry in value)
