"""The mutants of a module: every single change of an operator, name or index that should alter what it computes.

    sign      a + b <-> a - b, -a -> a               compare   < <-> >=, > <-> <=
    scale     a * b <-> a / b                        extreme   min <-> max, also as a keyword of clamp
    gradient  x.detach() -> x, no_grad removed       noise     alpha <-> sigma, dalpha <-> dsigma
    index     i -> i + 1 in subscripts, slices and axes

Docstrings, annotations, raised errors and f-strings are left alone, and so are sums and repetitions of lists.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_BINARY = {
    ast.Add: ("sign", ast.Sub),
    ast.Sub: ("sign", ast.Add),
    ast.Mult: ("scale", ast.Div),
    ast.Div: ("scale", ast.Mult),
}
_COMPARE = {ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.LtE: ast.Gt, ast.Gt: ast.LtE}
_PAIRS = {
    "noise": [("alpha", "sigma"), ("dalpha", "dsigma")],
    "extreme": [("min", "max"), ("minimum", "maximum"), ("amin", "amax")],
}
_NAMES = {
    name: (kind, other)
    for kind, pairs in _PAIRS.items()
    for pair in pairs
    for name, other in (pair, pair[::-1])
}
_STOPS = ("no_grad", "inference_mode")
_WITH_AXES = (
    *(
        "sum",
        "mean",
        "std",
        "var",
        "any",
        "all",
        "cumsum",
        "logsumexp",
        "softmax",
        "amin",
        "amax",
        "argmax",
        "size",
    ),
    *("cat", "stack", "flatten", "unflatten", "transpose", "unsqueeze", "squeeze"),
)
_LISTS = (ast.List, ast.Tuple, ast.ListComp, ast.JoinedStr)


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        id: `file:line:column:operator`, where the change is.
        key: `file scope: before -> after`, which stays when lines move; equal ones are numbered.
        source, number: the module, and which of its changes this is.
    """

    id: str
    key: str
    source: str
    number: int

    def tree(self) -> ast.Module:
        """The changed module."""
        tree = ast.parse(self.source)
        _, change = list(_changes(tree, self.source))[self.number]
        _Swap(change.target, change.new).visit(tree)
        return ast.fix_missing_locations(tree)


@dataclass(frozen=True)
class _Change:
    operator: str
    at: ast.AST  # whose line and column are the mutant's
    shown: ast.AST  # the expression that a report shows, before and after
    target: ast.AST
    new: ast.AST

    def texts(self) -> tuple[str, str]:
        """What is shown before and after."""
        if self.shown is self.target:
            return _text(self.target), _text(self.new)
        before = _text(self.shown)
        _Swap(self.target, self.new).visit(self.shown)
        after = _text(self.shown)
        _Swap(self.new, self.target).visit(self.shown)
        return before, after


class _Swap(ast.NodeTransformer):
    def __init__(self, target: ast.AST, new: ast.AST) -> None:
        self.target, self.new = target, ast.copy_location(new, target)

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self.target:
            return self.new
        self.generic_visit(node)
        return node


def mutants(name: str, source: str) -> Iterator[Mutant]:
    """All mutants of the module in the file `name`, in the order of its syntax tree."""
    seen: Counter[str] = Counter()
    for number, (scope, change) in enumerate(list(_changes(ast.parse(source), source))):
        place = f"{name}:{change.at.lineno}:{change.at.col_offset}:{change.operator}"
        before, after = change.texts()
        key = f"{name} {scope}: {before} -> {after}"
        seen[key] += 1
        yield Mutant(place, key if seen[key] == 1 else f"{key} #{seen[key]}", source, number)


def _changes(node: ast.AST, source: str, scope: str = "module") -> Iterator[tuple[str, _Change]]:
    """(function, change) of everything below a node."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        scope = node.name if scope == "module" else f"{scope}.{node.name}"
    for change in [*_arithmetic(node), *_names(node, source), *_gradients(node), *_indices(node)]:
        yield scope, change
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.JoinedStr):
                yield from _changes(child, source, scope)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _arithmetic(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _BINARY:
        sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
        if not any(isinstance(side, _LISTS) or _is(side, str) for side in sides):
            operator, other = _BINARY[type(node.op)]
            yield _Change(operator, sides[1], node, node, _with(node, op=other()))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield _Change("sign", node, node, node, node.operand)
    elif isinstance(node, ast.Compare):
        for i, (operation, right) in enumerate(zip(node.ops, node.comparators, strict=True)):
            if type(operation) in _COMPARE:
                ops = [*node.ops[:i], _COMPARE[type(operation)](), *node.ops[i + 1 :]]
                yield _Change("compare", right, node, node, _with(node, ops=ops))


def _names(node: ast.AST, source: str) -> Iterator[_Change]:
    """Names, attributes and keywords of clamp; alpha and sigma only in a module that has both."""
    field = {ast.Name: "id", ast.Attribute: "attr", ast.keyword: "arg"}.get(type(node))
    kind, other = _NAMES.get(getattr(node, field) or "", ("", "")) if field else ("", "")
    if not kind or (kind == "noise" and not re.search(rf"\b{other}\b", source)):
        return
    if isinstance(node, ast.keyword):
        if kind == "extreme":
            yield _Change(kind, node, node, node, _with(node, arg=other))
    elif isinstance(node.ctx, ast.Load):
        yield _Change(kind, _end(node), node, node, _with(node, **{field: other}))


def _end(node: ast.AST) -> ast.AST:
    """A node that starts where the last name of an attribute does."""
    if not isinstance(node, ast.Attribute):
        return node
    return _with(node, lineno=node.end_lineno, col_offset=node.end_col_offset - len(node.attr))


def _gradients(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "detach":
        yield _Change("gradient", _end(node.func), node, node, node.func.value)
    elif isinstance(node, ast.With) and any(_stops(item.context_expr) for item in node.items):
        rest = [item for item in node.items if not _stops(item.context_expr)]
        new = _with(node, items=rest) if rest else ast.If(ast.Constant(True), node.body, [])
        yield _Change("gradient", node, node, node, new)
    elif isinstance(node, ast.FunctionDef):
        for stop in filter(_stops, node.decorator_list):
            rest = [decorator for decorator in node.decorator_list if decorator is not stop]
            yield _Change("gradient", stop, node, node, _with(node, decorator_list=rest))


def _stops(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _STOPS


def _indices(node: ast.AST) -> Iterator[_Change]:
    """Whole numbers in a subscript, and the axes of a call that takes some."""
    places: list[ast.AST | None] = []
    if isinstance(node, ast.Subscript):
        for part in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            places += [part.lower, part.upper, part.step] if isinstance(part, ast.Slice) else [part]
    elif isinstance(node, ast.Call):
        places = [word.value for word in node.keywords if word.arg == "dim"]
        if isinstance(node.func, ast.Attribute) and node.func.attr in _WITH_AXES:
            places += node.args
    for place in places:
        if _is(place, int):
            yield _Change("index", place, node, place, ast.Constant(place.value + 1))
        elif isinstance(place, ast.UnaryOp) and isinstance(place.op, ast.USub) and _is(place.operand, int):
            yield _Change("index", place, node, place, ast.Constant(1 - place.operand.value))


def _is(node: ast.AST | None, kind: type) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is kind


def _text(node: ast.AST) -> str:
    """Source of an expression; of a statement with a body only its head."""
    if isinstance(node, ast.With):
        return "with " + ", ".join(ast.unparse(item) for item in node.items)
    if isinstance(node, ast.FunctionDef):
        return "".join(f"@{ast.unparse(decorator)} " for decorator in node.decorator_list) + "def"
    return "no with" if isinstance(node, ast.If) else ast.unparse(node)
