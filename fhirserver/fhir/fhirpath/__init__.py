"""FHIRPath: expressions compiled once and evaluated on resources, with the types of the definitions.

FHIRPath N1; FHIR R4: fhirpath. Pure: the time for now() and the resources for resolve() are variables of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.fhirpath.compiler import compile_tree
from fhirserver.fhir.fhirpath.model import Model
from fhirserver.fhir.fhirpath.parser import parse
from fhirserver.fhir.fhirpath.scope import MAX_STEPS, Closure, Scope, TooLarge, boolean
from fhirserver.fhir.fhirpath.values import Node, PathError, plain
from fhirserver.fhir.problem import problem

__all__ = ["Evaluate", "Node", "PathError", "TooLarge", "compile", "model_of", "truth"]

Evaluate = Callable[..., list[Any]]
"""(resource, variables=None) -> the JSON values found. Raises Problem(processing) when it cannot be evaluated."""


def compile(expression: str, definitions: Definitions | None = None) -> Evaluate:
    """An expression as a function of a resource and of variables; safe to call from several threads.

    Variables are by name without `%`: JSON values or lists of them. `resource`, `rootResource` and `context` are the
    resource itself unless given. `now` (an instant as text) serves now() and today(); `resolve` (a function from a
    reference's text to a resource or None) serves resolve() beyond what is contained or in the same Bundle.
    Raises Problem(invalid) for what is no FHIRPath, Problem(not-supported) for a function that is not known.
    """
    closure = closure_of(expression)
    model = model_of(definitions or Definitions.load())

    def evaluate(resource: Any, variables: Mapping[str, Any] | None = None) -> list[Any]:
        try:
            return [plain(item) for item in closure(_scope(model, resource, variables), [model.root(resource)])]
        except (PathError, RecursionError) as error:
            raise _failed(error) from None

    return evaluate


def truth(
    expression: str, definitions: Definitions | None = None, most_steps: int = MAX_STEPS
) -> Callable[..., bool | None]:
    """An expression as a test: (resource, variables=None) -> True, False, or None when it answers nothing.

    It is given up with Problem(processing) after `most_steps` steps; a million take about a third of a second.
    """
    closure = closure_of(expression)
    model = model_of(definitions or Definitions.load())

    def test(resource: Any, variables: Mapping[str, Any] | None = None) -> bool | None:
        try:
            scope = _scope(model, resource, variables)
            scope.steps = MAX_STEPS - most_steps
            return boolean(closure(scope, [model.root(resource)]))
        except (PathError, RecursionError) as error:
            raise _failed(error) from None

    return test


@lru_cache(maxsize=4_096)
def closure_of(expression: str) -> Closure:
    """The closure of an expression over a Scope and a focus of Nodes: what `compile` calls."""
    try:
        return compile_tree(parse(expression))
    except RecursionError:
        raise problem("too-costly", "The FHIRPath expression is nested too deeply.") from None


def model_of(definitions: Definitions) -> Model:
    """The model of some definitions, made once."""
    return definitions.derived(Model)


def _scope(model: Model, resource: Any, variables: Mapping[str, Any] | None) -> Scope:
    own = {"resource": resource, "rootResource": resource, "context": resource}
    return Scope(model, {**own, **variables} if variables else dict(own))


def _failed(error: Exception) -> Exception:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return problem("processing", f"The FHIRPath expression cannot be evaluated on this resource: {reason}.")
