"""Betting against exchangeability: whether new values still look like the earlier ones, asked after every one.

The p-value of a value is its rank among all values so far, ties broken at random; if the values are exchangeable, the
p-values are independent and uniform (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2005). A gambler
who starts with 1 and bets on small or large p-values, in the way of the simple jumper (Vovk et al. 2021, arXiv
2102.10439), then reaches 1 / a with a chance of at most a, however long the game goes on (Ville's inequality).

A gambler who has played for long has lost most of it, and would take long to see a change. So new ones join all the
time, the j-th with the share 1 / ((j + 1)(j + 2)) of the money; the shares add up to 1 and the guarantee stays.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

BETS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])  # against p = 1/2: capital is multiplied by 1 + bet * (p - 1/2)
JUMP = 0.01  # share of the capital that changes its bet with each value
JOIN_EVERY = 25  # values between two new gamblers
NEGLIGIBLE = 30.0  # nats below the total: such a gambler is sent home, which keeps the guarantee


class ConformalMartingale:
    """Capital of the gamblers against one sequence of numbers.

    Args:
        reference: values from before the game, on which nobody bets.
        seed: of the random ranks of ties.

    Attributes:
        log_capital: natural logarithm of the capital; it starts at 0.
        highest: the largest ``log_capital`` so far.
    """

    def __init__(self, reference: Iterable[float] = (), seed: int = 0):
        self.values = sorted(float(value) for value in reference)
        self.random = np.random.default_rng(seed)
        self.games = 0
        self.log_capital = self.highest = 0.0
        self._log_bets = np.empty((0, len(BETS)))  # logarithm of the capital of each gambler on each bet
        self._joined = 0

    def update(self, value: float) -> float:
        """Take the next value; its p-value, in (0, 1]: small if it is larger than most before it.

        Raises:
            ValueError: ``value`` is not finite.
        """
        if not math.isfinite(value):
            raise ValueError(f"value is {value}; expected a finite number")
        below, upto = bisect.bisect_left(self.values, value), bisect.bisect_right(self.values, value)
        larger, equal = len(self.values) - upto, upto - below + 1
        p = (larger + (1 - self.random.random()) * equal) / (len(self.values) + 1)
        self.values.insert(upto, value)
        self._bet(p)
        return p

    def _bet(self, p: float) -> None:
        if self.games % JOIN_EVERY == 0:
            share = -math.log((self._joined + 1) * (self._joined + 2)) - math.log(len(BETS))
            self._log_bets = np.vstack([self._log_bets, np.full(len(BETS), share)])
            self._joined += 1
        self.games += 1
        total = np.logaddexp.reduce(self._log_bets, axis=1, keepdims=True)
        moved = np.logaddexp(self._log_bets + math.log(1 - JUMP), total + math.log(JUMP / len(BETS)))
        self._log_bets = moved + np.log1p(BETS * (p - 0.5))
        each = np.logaddexp.reduce(self._log_bets, axis=1)
        waiting = -math.log(self._joined + 1)  # those who have not joined hold the rest
        self.log_capital = float(np.logaddexp.reduce(np.append(each, waiting)))
        self.highest = max(self.highest, self.log_capital)
        self._log_bets = self._log_bets[each > self.log_capital - NEGLIGIBLE]

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on, for JSON."""
        return {
            "values": self.values,
            "random": self.random.bit_generator.state,
            "games": self.games,
            "log_capital": self.log_capital,
            "highest": self.highest,
            "bets": self._log_bets.tolist(),
            "joined": self._joined,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.values = list(state["values"])
        self.random.bit_generator.state = state["random"]
        self.games, self._joined = state["games"], state["joined"]
        self.log_capital, self.highest = state["log_capital"], state["highest"]
        self._log_bets = np.array(state["bets"], float).reshape(-1, len(BETS))
