"""The changes that a mutation run makes: which places of a syntax tree, and into what."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["Mutant", "mutants"]

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
_LEFT_OUT = (ast.Assign, ast.AugAssign, ast.Expr, ast.Raise, ast.Continue, ast.Break, ast.Delete)
_SHOWN = 24
_KINDS = ("classmethod", "staticmethod", "property")
_BLOCKS = ("body", "orelse", "finalbody")


@dataclass(frozen=True)
class Mutant:
    """One place and what stands there instead.

    Attributes:
        line: Where it is.
        text: File, function, and the code before and after.
        parent: The node that holds the place.
        name: Field of it.
        place: Index where the field is a list, else None.
        new: What stands there instead.
    """

    line: int
    text: str
    parent: ast.AST
    name: str
    place: int | None
    new: ast.AST

    def apply(self) -> None:
        """Make the change in the tree itself."""
        if self.place is None:
            setattr(self.parent, self.name, self.new)
        else:
            getattr(self.parent, self.name)[self.place] = self.new


def mutants(tree: ast.Module, stem: str) -> Iterator[Mutant]:
    """List the changes of a file; annotations, texts, messages and assertions stay.

    Args:
        tree: Of the whole file; it is as it was after each step.
        stem: Name of the file, for the texts.
    """
    seen: Counter[str] = Counter()
    for mutant in _below(tree, (stem,), None):
        seen[mutant.text] += 1
        times = seen[mutant.text]  # the second of the same words is told apart by its number
        yield mutant if times == 1 else replace(mutant, text=f"{mutant.text} ({times})")


def _below(
    node: ast.AST,
    names: tuple[str, ...],
    statement: ast.AST | None,
    first: frozenset[ast.AST] = frozenset(),
) -> Iterator[Mutant]:
    """Walk down, with the names of classes and functions and the statement around."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        names = (*names, node.name)
    first = _first_values(node) if isinstance(node, ast.FunctionDef) else first
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or (isinstance(node, ast.Raise) and name == "exc"):
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or _is_left_alone(child):
                continue
            around = child if name in _BLOCKS or statement is None else statement
            for new in _changes(child, name):
                if child in first and isinstance(new, ast.Pass):
                    continue  # what follows could not run
                yield _mutant(node, name, place, child, ast.copy_location(new, child), names,
                              around)  # fmt: skip
            if not _is_negative_number(child):  # its number is changed with its sign
                yield from _below(child, names, around, first)


def _first_values(function: ast.FunctionDef) -> frozenset[ast.AST]:
    """Find the assignments that first give a name of a function its value."""
    known = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
    first = set()
    for node in sorted(
        (node for node in ast.walk(function) if isinstance(node, ast.Assign | ast.AnnAssign)),
        key=lambda node: node.lineno,
    ):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = {part.id for target in targets for part in ast.walk(target)
                 if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}  # fmt: skip
        if names and not names & known:
            first.add(node)
        known |= names
    return frozenset(first)


def _mutant(
    parent: ast.AST,
    name: str,
    place: int | None,
    old: ast.AST,
    new: ast.AST,
    names: tuple[str, ...],
    around: ast.AST,
) -> Mutant:
    ast.fix_missing_locations(new)
    shown = parent if isinstance(parent, ast.expr) else old
    if isinstance(parent, ast.Slice | ast.keyword):
        shown = _holder(around, parent)
    before = _first_line(shown)
    change = Mutant(getattr(old, "lineno", 0), "", parent, name, place, new)
    change.apply()
    after = _first_line(new if shown is old else shown)
    Mutant(0, "", parent, name, place, old).apply()
    text = f"{'.'.join(names)}: {_shortened(before, after)}"
    return Mutant(change.line, text, parent, name, place, new)


def _shortened(before: str, after: str) -> str:
    """Leave out what is the same at both ends, but for some letters."""
    same = _num_equal(before, after)
    left = max(0, same - _SHOWN)
    cut = max(0, _num_equal(before[same:][::-1], after[same:][::-1]) - _SHOWN)
    before, after = (text[left : len(text) - cut] for text in (before, after))
    return f"{'...' * (left > 0)}{before} -> {after}{'...' * (cut > 0)}"


def _num_equal(one: str, other: str) -> int:
    """Count the letters that two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _holder(around: ast.AST, wanted: ast.AST) -> ast.AST:
    """Find the expression that directly holds a slice or a keyword."""
    found = around
    for node in ast.walk(around):
        if isinstance(node, ast.expr) and any(c is wanted for c in ast.iter_child_nodes(node)):
            found = node
    return found


def _first_line(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0].replace("`", "'")


def _is_left_alone(node: ast.AST) -> bool:
    """Tell what is never changed: texts, assertions, imports, ``__all__``."""
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.keyword) and node.arg in ("frozen", "strict"):
        return True  # assertions of another kind: nothing that is computed depends on them
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _changes(node: ast.AST, name: str) -> Iterator[ast.AST]:
    """List what may stand in place of a node."""
    if isinstance(node, _LEFT_OUT):
        yield ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None:
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Compare):
        for place, old in enumerate(node.ops):
            for kind in _COMPARED[type(old)]:
                yield _with(node, ops=[*node.ops[:place], kind(), *node.ops[place + 1 :]])
    elif isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED:
        yield _with(node, op=_COMPUTED[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
        if _is_negative_number(node):
            value = ast.literal_eval(node)
            yield from (_number(value + 1), _number(value - 1))
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node.value)
    if isinstance(node, ast.AugAssign):
        yield _with(node, op=_COMPUTED[type(node.op)]())
    if name == "decorator_list" and ast.unparse(node) not in _KINDS:
        yield ast.parse("lambda f: f", mode="eval").body
    if isinstance(node, ast.expr) and name in ("test", "ifs"):
        yield from (ast.Constant(True), ast.Constant(False))


def _other_constants(value: object) -> Iterator[ast.AST]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield _number(value + 1)
        if value:
            yield _number(value - 1)


def _is_negative_number(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Constant)
    )


def _number(value: float) -> ast.AST:
    return ast.parse(repr(value), mode="eval").body


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new
