"""A prefix tree says exactly which leading tokens prompts share, also after they were cut, cut out or mixed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.contract import IntArray
from poolpilot.env.workload.prefixes import NO_PREFIXES, Blocks, PrefixTree
from poolpilot.env.workload.requests import Workload, WorkloadError

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)


def ints(*values: int) -> IntArray:
    return np.array(values, dtype=np.int64)


def a_load(prompts: list[list[int]], block_tokens: int = 1) -> Workload:
    """Prompts of known tokens; a block is named by its tokens."""
    blocks = [[p[i : i + block_tokens] for i in range(0, len(p), block_tokens)] for p in prompts]
    names = {name: i for i, name in enumerate(sorted({tuple(b) for one in blocks for b in one}))}
    ids = ints(*(names[tuple(b)] for one in blocks for b in one))
    starts = np.concatenate([[0], np.cumsum([len(one) for one in blocks])]).astype(np.int64)
    lengths = ints(*(len(p) for p in prompts))
    tree, node = Blocks(ids, starts, block_tokens, lengths).tree()
    n = len(prompts)
    return Workload(np.arange(n, dtype=np.float64), lengths, ints(*[1] * n), ints(*[0] * n), ("chat",), node, tree)


def path(tree: PrefixTree, node: int) -> list[int]:
    nodes = []
    while node >= 0:
        nodes.append(node)
        node = int(tree.parent[node])
    return nodes


def shared_tokens(load: Workload, a: int, b: int) -> int:
    """What the tree says two requests have in common: the end of their deepest common node."""
    both = set(path(load.prefixes, int(load.prefix_index[a]))) & set(path(load.prefixes, int(load.prefix_index[b])))
    return max((int(load.prefixes.tokens[node]) for node in both), default=0)


def common(a: list[int], b: list[int], block_tokens: int = 1) -> int:
    """Whole equal blocks, the last of which may be short, at the beginning of two prompts."""
    n = 0
    while n < min(len(a), len(b)) and a[n : n + block_tokens] == b[n : n + block_tokens]:
        n += block_tokens
    return min(n, len(a), len(b))


@given(PROMPTS, st.integers(1, 3))
def test_a_tree_of_blocks_says_what_each_two_prompts_share(prompts: list[list[int]], block_tokens: int) -> None:
    load = a_load(prompts, block_tokens)
    for a in range(len(prompts)):
        for b in range(a):
            assert shared_tokens(load, a, b) == common(prompts[a], prompts[b], block_tokens)


@given(PROMPTS)
def test_a_tree_of_blocks_holds_no_node_that_says_nothing(prompts: list[list[int]]) -> None:
    load = a_load(prompts)
    below: list[frozenset[int]] = [frozenset()] * len(load.prefixes)
    for i, node in enumerate(load.prefix_index):
        for on_path in path(load.prefixes, int(node)):
            below[on_path] |= {i}
    assert all(len(members) > 1 for members in below)
    for node, parent in enumerate(load.prefixes.parent):
        assert parent < 0 or below[node] < below[parent]


@given(PROMPTS, st.data())
def test_cut_prompts_share_what_is_left_of_what_they_shared(prompts: list[list[int]], data: st.DataObject) -> None:
    kept = [data.draw(st.integers(1, len(p))) for p in prompts]
    load = a_load(prompts)
    cut = load.shortened(ints(*kept), load.output_tokens)
    for a in range(len(prompts)):
        for b in range(a):
            assert shared_tokens(cut, a, b) == min(common(prompts[a], prompts[b]), kept[a], kept[b])


@given(PROMPTS, PROMPTS)
def test_mixed_requests_share_what_they_shared_before(first: list[list[int]], second: list[list[int]]) -> None:
    loads = [a_load(first), a_load(second)]
    mixed = Workload.mix(*loads)
    place = np.argsort(np.argsort(np.concatenate([load.arrival_s for load in loads]), kind="stable"))
    both = first + second
    for a in range(len(both)):
        for b in range(a):
            same = (a < len(first)) == (b < len(first))
            assert shared_tokens(mixed, place[a], place[b]) == (common(both[a], both[b]) if same else 0)


def test_parts_of_one_workload_still_share_when_they_are_mixed_again() -> None:
    load = a_load([[1, 1, 1], [1, 1, 2], [1, 1]])
    again = Workload.mix(load.slice(0.0, 1.0), load.slice(1.0, 3.0).scaled_rate(0.1))
    assert again.prefixes is load.prefixes
    assert sorted(shared_tokens(again, a, b) for a, b in [(0, 1), (0, 2), (1, 2)]) == [2, 2, 2]


def test_requests_share_nothing_unless_it_is_said() -> None:
    load = Workload(np.zeros(2), ints(5, 5), ints(1, 1), ints(0, 0), ("chat",))
    assert load.prefix_index.tolist() == [-1, -1]
    assert load.prefixes is NO_PREFIXES


@pytest.mark.parametrize(
    ("parent", "tokens", "message"),
    [
        (ints(-1, 1), ints(5, 9), r"prefixes\.parent: row 1: 1: wanted -1, or a node that comes before"),
        (ints(-2), ints(5), r"prefixes\.parent: row 0: -2: wanted -1"),
        (ints(-1, 0), ints(5, 5), r"prefixes\.tokens: row 1: 5: wanted more than its parent's"),
        (ints(-1), ints(0), r"prefixes\.tokens: row 0: 0: wanted more than its parent's, above 0"),
        (ints(-1), ints(1, 2), r"prefixes\.tokens: shape \(2,\): wanted \(1,\)"),
        (np.array([-1.0]), ints(1), r"prefixes\.parent: float64: wanted a NumPy array of int64"),
    ],
)
def test_what_is_no_tree_is_refused(parent: IntArray, tokens: IntArray, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        PrefixTree(parent, tokens)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (ints(0, 1), r"prefix_index: row 1: 1: wanted -1 \(none\), or a node: 0 to 0"),
        (ints(-2, 0), r"prefix_index: row 0: -2: wanted -1"),
        (ints(-1, 0), r"prefix_index: row 1: 0: wanted a node that ends within the request's prompt_tokens"),
        (ints(0), r"prefix_index: shape \(1,\): wanted \(2,\)"),
    ],
)
def test_a_request_at_an_impossible_node_is_refused(index: IntArray, message: str) -> None:
    tree = PrefixTree(ints(-1), ints(100))
    with pytest.raises(WorkloadError, match=message):
        Workload(np.zeros(2), ints(100, 99), ints(1, 1), ints(0, 0), ("chat",), index, tree)


def test_a_prompt_does_not_grow_by_being_shortened() -> None:
    load = a_load([[1, 1]])
    with pytest.raises(WorkloadError, match="prompt_tokens: row 0: 3: wanted at most the 2 that it has"):
        load.shortened(ints(3), load.output_tokens)
