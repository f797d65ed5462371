"""Answers from a fixed set: a trie over the choices' token ids. Knows no model and no text."""

from collections.abc import Mapping
from dataclasses import dataclass, field


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

    @property
    def is_decided(self) -> bool:
        """Whether one label alone can be reached from here."""
        _, node = self.rest()
        return node.label is not None and not node.children


def choice_trie(choices: Mapping[str, tuple[int, ...]]) -> ChoiceNode:
    """The trie of labels and their token ids."""
    root = ChoiceNode()
    for label, token_ids in choices.items():
        node = root
        for token in token_ids:
            node = node.children.setdefault(token, ChoiceNode())
        node.label = label
    return root
