"""Answers from a fixed set: a trie over the choices' token ids, and the search for the likeliest. Knows no model.

The probability of a choice is the product, over the places on its way where choices part, of its token's share
among the tokens that lead on to some choice. So the choices' probabilities add up to one, and
length costs nothing by itself: a token that leaves no choice counts as one, and is not even run.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

NEGLIGIBLE = 0.01
"""A part of the trie that holds less than this share of the best choice found is not looked into."""


@dataclass(slots=True, eq=False)
class ChoiceNode:
    """A place in the trie. `children` by token id; `label` where a choice is complete."""

    children: dict[int, "ChoiceNode"] = field(default_factory=dict)
    label: str | None = None

    @property
    def may_end(self) -> bool:
        """Whether a choice is complete here although others go on."""
        return self.label is not None and bool(self.children)

    def rest(self) -> tuple[list[int], "ChoiceNode"]:
        """The tokens that follow while there is no choice left to make, and the node that they lead to."""
        node, tokens = self, []
        while node.label is None and len(node.children) == 1:
            token, node = next(iter(node.children.items()))
            tokens.append(token)
        return tokens, node

    def labels(self) -> Iterator[str]:
        """Every choice that can be reached from here."""
        if self.label is not None:
            yield self.label
        for child in self.children.values():
            yield from child.labels()


def choice_trie(choices: Mapping[str, tuple[int, ...]]) -> ChoiceNode:
    """The trie of labels and their token ids."""
    root = ChoiceNode()
    for label, token_ids in choices.items():
        node = root
        for token in token_ids:
            node = node.children.setdefault(token, ChoiceNode())
        node.label = label
    return root


class ChoiceSearch:
    """The choices of one record, looked at best first: the place that holds most of what is open comes next.

    One row of the cache is enough for it: going back is taking tokens away. The choice it ends with is the
    likeliest of all, not what a greedy walk down the trie would meet.
    """

    def __init__(self, choices: Mapping[str, tuple[int, ...]]) -> None:
        self._token_ids = dict(choices)
        self._found: dict[str, float] = {}
        self._open: list[tuple[float, int, tuple[int, ...], ChoiceNode]] = []
        self._num_seen = 0
        self._see((), choice_trie(choices), 1.0)

    @property
    def is_done(self) -> bool:
        """Whether the likeliest choice is known."""
        best = max(self._found.values(), default=0.0)
        return not self._open or -self._open[0][0] < NEGLIGIBLE * best

    def is_at(self, output: Sequence[int]) -> bool:
        """Whether the model has run `output` and its next token is the one to weigh."""
        return not self.is_done and self._place[0] == tuple(output)

    @property
    def options(self) -> tuple[list[int], bool]:
        """The tokens that lead on from the place to weigh, and whether a choice may end there instead."""
        _, node = self._place
        return list(node.children), node.may_end

    def weigh(self, shares: Sequence[float]) -> None:
        """Take in the options' shares, which add up to one; ending, if it is an option, comes last."""
        negative_mass, _, path, node = heapq.heappop(self._open)
        for (token, child), share in zip(node.children.items(), shares, strict=False):
            self._see((*path, token), child, -negative_mass * share)
        if node.may_end:
            self._found[str(node.label)] = -negative_mass * shares[-1]

    def next_output(self, output: Sequence[int]) -> list[int]:
        """What the model runs next: the path to the place to weigh, as far as it has been run and a token more."""
        path, _ = self._place
        same = 0
        while same < min(len(path), len(output)) and path[same] == output[same]:
            same += 1
        return list(path[: same + 1])

    def probabilities(self) -> dict[str, float]:
        """For each choice, in the choices' order; those of a part not looked into share what it holds."""
        found = dict(self._found)
        for negative_mass, _, _, node in self._open:
            labels = list(node.labels())
            found.update(dict.fromkeys(labels, -negative_mass / len(labels)))
        return {label: found[label] for label in self._token_ids}

    def token_ids(self, label: str) -> tuple[int, ...]:
        return self._token_ids[label]

    @property
    def _place(self) -> tuple[tuple[int, ...], ChoiceNode]:
        return self._open[0][2:]

    def _see(self, path: tuple[int, ...], node: ChoiceNode, mass: float) -> None:
        """A part of the trie that holds `mass`; past tokens that leave no choice it is decided or still open."""
        rest, end = node.rest()
        if end.label is not None and not end.children:
            self._found[end.label] = mass
        else:
            self._num_seen += 1
            heapq.heappush(self._open, (-mass, self._num_seen, (*path, *rest), end))
