"""The space of a search: templates of recipes with gaps, and what may stand in the gaps.

Second of `converters.search`, over `domains`. As the user writes it under `search:` of an experiment::

    recipes:
      - "prune_structured({ratio}, by={by}, epochs={epochs}) > {precision} @ tflite"
      - "distill({width}, epochs={epochs}) > {precision} @ tflite"
    parameters:
      ratio: {float: [0.1, 0.8], step: 0.05}
      by: {choice: [l2, taylor]}
      epochs: {int: [0, 3]}
      width: {float: [0.25, 1.0]}
      precision: {choice: [fp32, static_wi8_ai8]}

Several templates are a choice of their own, named `recipe`; a parameter is at work only where the chosen template names it. One that is
`per_layer` becomes one parameter for each layer (`ratio.conv1`, `ratio.conv2`) and stands in the recipe as `conv1:0.3/conv2:0.5`. No
toolchain is imported here.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converters.errors import RecipeError
from converters.recipe import Recipe, hint
from converters.recipe_words import parse_recipes
from converters.search.domains import LEVELS, Choice, Domain, read_domain, word
from converters.search.trial import Candidate, Value
from converters.step_rules import trains
from converters.steps import Step
from converters.support import reason

Values = Mapping[str, Value]
# The name of the choice among templates.
RECIPE = "recipe"
_GAP = re.compile(r"\{(\w+)\}")
_NAME = re.compile(r"[A-Za-z_]\w*")
_KEYS = ("recipes", "parameters")


@dataclass(frozen=True, slots=True)
class Template:
    """A recipe with gaps. `text`: as it was written. `names`: of the parameters at work in it, a `per_layer` one's written out, in
    the order of their gaps. `gaps`: name in the text → (layer, parameter) of what stands there; layer "" for an ordinary parameter."""

    text: str
    names: tuple[str, ...]
    gaps: Mapping[str, tuple[tuple[str, str], ...]]

    def filled(self, values: Values) -> str:
        """The recipe that these values make of it. Raises KeyError where one is missing."""

        def filling(match: re.Match[str]) -> str:
            parts = self.gaps[match[1]]
            return "/".join(f"{layer}:{word(values[name])}" if layer else word(values[name]) for layer, name in parts)

        return _GAP.sub(filling, self.text)


@dataclass(frozen=True, slots=True)
class Space:
    """All candidates. `templates`: at least one. `parameters`: name → domain, with `recipe` (the choice among templates) in front where
    there are several of them."""

    templates: tuple[Template, ...]
    parameters: Mapping[str, Domain]

    @property
    def size(self) -> int | None:
        """How many points there are, some of which may mean the same recipe; None when a range has no steps."""
        counts = [[self.parameters[name].count for name in template.names] for template in self.templates]
        sizes = [None if None in found else math.prod(each or 1 for each in found) for found in counts]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def template(self, values: Values) -> Template:
        """The template that these values are of. Raises ValueError where they name none."""
        if len(self.templates) == 1:
            return self.templates[0]
        found = next((template for template in self.templates if template.text == values.get(RECIPE)), None)
        if found is None:
            raise ValueError(f"{values.get(RECIPE)!r} is none of the space's recipes")
        return found

    def active(self, values: Values) -> tuple[str, ...]:
        """Names of the parameters at work in these values, `recipe` among them where there are several templates."""
        names = self.template(values).names
        return names if len(self.templates) == 1 else (RECIPE, *names)

    def holds(self, values: Values) -> bool:
        """Whether these are values of this space, complete and with nothing beside. A trial of an earlier space may be of another."""
        if len(self.templates) > 1 and all(template.text != values.get(RECIPE) for template in self.templates):
            return False
        names = self.active(values)
        return set(names) == set(values) and all(self.parameters[name].holds(values[name]) for name in names)

    def candidate(self, values: Values) -> Candidate:
        """The candidate of these values: those that are not at work are left out, the others moved to the nearest value there is.

        Raises KeyError where one at work is missing. Whether it can be carried out: `refusal`."""
        template = self.template(values)
        found = {name: self._snapped(name, values[name]) for name in self.active(values)}
        text = template.filled(found)
        recipe = _recipe(text)
        return Candidate(found, text, recipe if isinstance(recipe, str) else recipe.key)

    def refusal(self, candidate: Candidate) -> str | None:
        """Why this candidate cannot be a variant, known before any work; None when it can."""
        recipe = _recipe(candidate.recipe)
        return recipe if isinstance(recipe, str) else reason(recipe)

    def trains(self, candidate: Candidate) -> bool:
        """Whether it trains anything, so that fewer training rows would be less work."""
        recipe = _recipe(candidate.recipe)
        return not isinstance(recipe, str) and any(trains(step) for step in recipe.steps)

    def draw(self, shares: Iterator[float]) -> dict[str, Value]:
        """Values at random; `shares`: uniform draws in [0, 1), as many as are asked for. Every template is equally likely."""
        values: dict[str, Value] = {}
        if len(self.templates) > 1:
            values[RECIPE] = self.parameters[RECIPE].drawn(next(shares))
        for name in self.template(values).names:
            values[name] = self.parameters[name].drawn(next(shares))
        return values

    def everything(self) -> Iterator[Candidate]:
        """Every candidate of a space that has a `size`, one after the other; some may mean the same recipe."""
        for levels in self.levels(self.size or 0):
            for values in itertools.product(*levels.values()):
                yield self.candidate(dict(zip(levels, values, strict=True)))

    def levels(self, most: int = LEVELS) -> list[dict[str, tuple[Value, ...]]]:
        """Of each template: the values of every parameter at work that a grid looks at, of a range at most `most`."""
        found: list[dict[str, tuple[Value, ...]]] = []
        for template in self.templates:
            levels: dict[str, tuple[Value, ...]] = {} if len(self.templates) == 1 else {RECIPE: (template.text,)}
            found.append(levels | {name: self.parameters[name].levels(most) for name in template.names})
        return found

    def samples(self, template: Template) -> Iterator[dict[str, Value]]:
        """Values of a template in which everything that may stand in a gap stands once: the first of everything, then each other option of
        every choice and the other end of each range, alone."""
        ends = {name: _ends(self.parameters[name]) for name in template.names}
        first = {name: values[0] for name, values in ends.items()}
        yield first
        yield from (first | {name: value} for name, values in ends.items() for value in values[1:])

    def steps(self) -> list[Step]:
        """The compression steps of all `samples`: together they name every file that a candidate may name."""
        texts = (template.filled(values) for template in self.templates for values in self.samples(template))
        recipes = (_recipe(text) for text in dict.fromkeys(texts))
        return [step for recipe in recipes if not isinstance(recipe, str) for step in recipe.steps]

    def _snapped(self, name: str, value: Value) -> Value:
        domain = self.parameters[name]
        if isinstance(domain, Choice):
            return domain.snapped(value)
        if isinstance(value, str):
            raise TypeError(f"{name} is {value!r}, but must be a number")
        return domain.snapped(value)


@functools.lru_cache(maxsize=4096)
def _recipe(text: str) -> Recipe | str:
    """The one recipe of a text, or why there is none."""
    try:
        found = parse_recipes([text])
    except RecipeError as error:
        return str(error)
    if len(found) > 1:
        formats = ", ".join(dict.fromkeys(recipe.format for recipe in found))
        return f"{text!r} is {len(found)} recipes ({formats}), but a candidate is one — name one precision and one format, for example @ tflite"
    return found[0]


def read_space(data: Mapping[str, Any], where: str = "search") -> Space:
    """The space of `{recipes: […], parameters: {…}}`, checked as far as it can be without trying everything.

    `where`: what errors call the place. Raises RecipeError: for an unknown key, a gap without a parameter, a parameter without a gap, a
    template that is no recipe with some value, or one that no value makes possible."""
    for key in data:
        if key not in _KEYS:
            raise RecipeError(f"{where}: unknown key {key!r}{hint(key, _KEYS)}", remedy=f"there are {', '.join(_KEYS)}")
    texts, domains = _texts(where, data.get("recipes")), _domains(where, data.get("parameters"))
    templates = tuple(_template(f"{where}.recipes[{place}]", text, domains) for place, text in enumerate(texts))
    used = {name for template in templates for name in template.gaps}
    for name in domains:
        if name not in used:
            raise RecipeError(
                f"{where}.parameters.{name} stands in no recipe",
                remedy=f"write {{{name}}} where it belongs, or leave it out",
            )
    flat = {_full(name, layer): domain for name, found in domains.items() for layer, domain in found.items()}
    choice: dict[str, Domain] = {RECIPE: Choice(tuple(texts))} if len(texts) > 1 else {}
    space = Space(templates, choice | flat)
    for place, template in enumerate(templates):
        _check(f"{where}.recipes[{place}]", space, template)
    return space


def _texts(where: str, data: object) -> list[str]:
    if isinstance(data, str):
        data = [data]
    if not isinstance(data, Sequence) or not data or not all(isinstance(text, str) and text.strip() for text in data):
        raise RecipeError(
            f"{where}.recipes is {data!r}, but must be a list of recipes",
            remedy='for example "prune({sparsity}) > {precision} @ tflite"',
        )
    texts = [text.strip() for text in data]
    for place, text in enumerate(texts):
        if text in texts[:place]:
            raise RecipeError(f"{where}.recipes[{place}] stands there twice: {text!r}")
    return texts


def _domains(where: str, data: object) -> dict[str, dict[str, Domain]]:
    """Name → layer → domain; layer "" for a parameter that is not per layer."""
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where}.parameters is {data!r}, but must say what may stand in the gaps of the recipes")
    for name in data:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == RECIPE:
            why = "is the name of the choice among recipes" if name == RECIPE else "must be letters, digits and _"
            raise RecipeError(f"{where}.parameters: the name {name!r} {why}")
    return {name: read_domain(f"{where}.parameters.{name}", found) for name, found in data.items()}


def _full(name: str, layer: str) -> str:
    return f"{name}.{layer}" if layer else name


def _template(where: str, text: str, domains: Mapping[str, Mapping[str, Domain]]) -> Template:
    names = list(dict.fromkeys(_GAP.findall(text)))
    if set(_GAP.sub("", text)) & set("{}"):
        raise RecipeError(f"{where}: a brace too many or too few in {text!r}", remedy="a gap is a name: {ratio}")
    for name in names:
        if name not in domains:
            raise RecipeError(
                f"{where}: {{{name}}} is no parameter{hint(name, domains)}",
                remedy=f"say under parameters what it may be: {name}: {{float: [0.1, 0.9]}}",
            )
    gaps = {name: tuple((layer, _full(name, layer)) for layer in domains[name]) for name in names}
    return Template(text, tuple(full for parts in gaps.values() for _, full in parts), gaps)


def _check(where: str, space: Space, template: Template) -> None:
    """Try all samples of a template. Raises RecipeError for one that is no recipe, and where none can be carried out."""
    refusals: list[str | None] = []
    for sample in space.samples(template):
        recipe = _recipe(template.filled(sample))
        if isinstance(recipe, str):
            said = ", ".join(f"{name}={word(value)}" for name, value in sample.items())
            raise RecipeError(f"{where}" + (f", with {said}" if said else "") + f": {recipe}")
        refusals.append(reason(recipe))
    if None not in refusals:
        raise RecipeError(f"{where}: {refusals[0]}")


def _ends(domain: Domain) -> tuple[Value, ...]:
    return domain.options if isinstance(domain, Choice) else tuple(dict.fromkeys((domain.at(0.0), domain.at(1.0))))
