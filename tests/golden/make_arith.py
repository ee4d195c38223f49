"""Writes arith.tsv: expressions and what Python makes of them.

    python3 tests/golden/make_arith.py > tests/golden/arith.tsv

A line is: expression, tab, result: an integer, a double in hexadecimal, `error`, or `big` where an
integer on the way passes 127 bits (there the bounded evaluator gives up).
"""
import ast
import operator
import random
import warnings

warnings.simplefilter("ignore")
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
             ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow}


class Big(Exception):
    pass


def checked(value):
    if isinstance(value, int) and abs(value) >= 1 << 127:
        raise Big
    return value


def evaluate(node):
    if isinstance(node, ast.Constant):
        return checked(node.value)
    if isinstance(node, ast.UnaryOp):
        value = evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else +value
    if isinstance(node, ast.BinOp):
        a, b = evaluate(node.left), evaluate(node.right)
        if isinstance(node.op, ast.Pow) and isinstance(a, int) and isinstance(b, int):
            if abs(a) > 1 and b > 127:
                raise Big
        return checked(OPERATORS[type(node.op)](a, b))
    raise TypeError("a tuple or a call")


def result(text):
    try:
        value = evaluate(ast.parse(text.lstrip(" "), mode="eval").body)
    except Big:
        return "big"
    except (SyntaxError, ArithmeticError, TypeError, ValueError):
        return "error"
    if isinstance(value, int):
        return str(value)
    return value.hex() if isinstance(value, float) else "error"


def tokens(rng):
    numbers = [str(n) for n in range(1, 11)]
    signs = ["+", "-", "*", "/", "(", ")", " ", "**", "//"]
    return "".join(rng.choice(numbers if rng.random() < 0.5 else signs)
                   for _ in range(rng.randint(1, 9)))


def well_formed(rng, depth):
    if depth == 0 or rng.random() < 0.2:
        return str(rng.randint(0, rng.choice([3, 12, 105, 10**12, 10**20])))
    kind = rng.random()
    if kind < 0.1:
        return rng.choice("+-") + well_formed(rng, depth - 1)
    if kind < 0.3:
        return "(" + well_formed(rng, depth - 1) + ")"
    op = rng.choice(["+", "-", "*", "/", "//", "**"])
    return well_formed(rng, depth - 1) + op + well_formed(rng, depth - 1)


def main():
    rng = random.Random(1)
    seen = {"10**10**10", "10//(2/5)", "10/(2/5)", "8/(3-8/3)", "-2**2", "2**-1", "(-8)**(1/3)",
            "(2)(3)", "()", "0**-1", "1//0", "0/0", " 10+2", "10 + 2", "1 2", "/ /", "2* *3", "012",
            "00", "7//-2", "-7//2", "7/-2", "(-1)**127", "(-2)**127", "2**126", "2**127", "+-+3"}
    while len(seen) < 700:
        seen.add(tokens(rng))
    while len(seen) < 1700:
        text = well_formed(rng, 4)
        if len(text) < 60:
            seen.add(text)
    for text in sorted(seen):
        print(text, result(text), sep="\t")


main()
