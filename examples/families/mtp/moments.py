"""Basis functions of a moment tensor potential up to a level, as motep takes them (it has no basis of its own).

Moments M(mu, nu) are of level 2 + 4 mu + nu (Shapeev, Multiscale Model. Simul. 14, 1153, 2016); a product's level is
the sum. Scalars that are contracted here: M(mu, 0); M(mu, nu) with M(mu', nu); vector, matrix, vector; the trace of
three matrices; and all products of these. Contractions of higher order are left out.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement, product

AXES = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


class Moments:
    """Tables: components (mu, a, b, c), sums of products (i, j, factor, target), and which of them are scalars."""

    def __init__(self, level: int) -> None:
        self.times: list[tuple[int, int, int, int]] = []
        kinds = [(mu, nu) for mu in range(level) for nu in range(level) if _level(mu, nu) <= level]
        kinds = [(mu, nu) for mu, nu in kinds if nu == 0 or _level(mu, nu) + _level(0, nu) <= level]
        self.basic = [(mu, *powers) for mu, nu in kinds for powers in _powers(nu)]
        self.place = {component: number for number, component in enumerate(self.basic)}
        self.count = len(self.basic)
        self.functions = 1 + max(mu for mu, _ in kinds)
        scalars = [(_level(mu, 0), self.place[mu, 0, 0, 0]) for mu, nu in kinds if nu == 0]
        scalars += self._pairs(kinds, level) + self._threes(kinds, level)
        self.scalars = [number for _, number in sorted(self._products(scalars, level))]

    def _new(self, terms: list[tuple[int, int, int]]) -> int:
        """A moment that is a sum of products of two."""
        self.times += [(i, j, factor, self.count) for i, j, factor in terms]
        self.count += 1
        return self.count - 1

    def _pairs(self, kinds: list[tuple[int, int]], level: int) -> list[tuple[int, int]]:
        found = []
        for (mu, nu), (other, same) in combinations_with_replacement(kinds, 2):
            total = _level(mu, nu) + _level(other, same)
            if nu == same > 0 and total <= level:
                pairs = [(self.place[mu, *p], self.place[other, *p], _multinomial(p)) for p in _powers(nu)]
                found.append((total, self._new(pairs)))
        return found

    def _threes(self, kinds: list[tuple[int, int]], level: int) -> list[tuple[int, int]]:
        vectors, matrices = ([mu for mu, nu in kinds if nu == rank] for rank in (1, 2))
        found = []

        def entry(mu: int, a: int, b: int) -> int:
            return self.place[mu, *(AXES[a][k] + AXES[b][k] for k in range(3))]

        for matrix in matrices:
            for one, two in combinations_with_replacement(vectors, 2):
                total = _level(matrix, 2) + _level(one, 1) + _level(two, 1)
                if total <= level:
                    turned = [self._new([(entry(matrix, a, b), self.place[one, *AXES[b]], 1) for b in range(3)])
                              for a in range(3)]  # fmt: skip
                    found.append((total, self._new([(turned[a], self.place[two, *AXES[a]], 1) for a in range(3)])))
        for one, two, three in combinations_with_replacement(matrices, 3):
            total = _level(one, 2) + _level(two, 2) + _level(three, 2)
            if total <= level:
                square = {
                    (a, c): self._new([(entry(one, a, b), entry(two, b, c), 1) for b in range(3)])
                    for a, c in product(range(3), repeat=2)
                }
                found.append((total, self._new([(square[a, c], entry(three, c, a), 1) for a, c in square])))
        return found

    def _products(self, scalars: list[tuple[int, int]], level: int) -> list[tuple[int, int]]:
        """The scalars and all products of them."""
        found = list(scalars)
        rows = [(total, number, k) for k, (total, number) in enumerate(scalars)]
        while rows:
            rows = [
                (total + scalars[k][0], self._new([(number, scalars[k][1], 1)]), k)
                for total, number, last in rows
                for k in range(last, len(scalars))
                if total + scalars[k][0] <= level
            ]
            found += [(total, number) for total, number, _ in rows]
        return found


def _level(mu: int, nu: int) -> int:
    return 2 + 4 * mu + nu


def _powers(nu: int) -> list[tuple[int, int, int]]:
    return [(a, b, nu - a - b) for a in range(nu, -1, -1) for b in range(nu - a, -1, -1)]


def _multinomial(powers: tuple[int, int, int]) -> int:
    return math.factorial(sum(powers)) // math.prod(math.factorial(power) for power in powers)
