"""Accuracy beside scikit-learn's and literal loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as judge

from videohpm.evaluate.metrics import accuracy, confusion, ranks_of, top_classes


def draw(seed, n=200, classes=9):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), n).astype(np.float32)
    return probabilities, rng.integers(classes, size=n)


@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed):
    probabilities, labels = draw(seed)
    found, called = accuracy(probabilities, labels), probabilities.argmax(1)
    assert found["top1"] == pytest.approx(100 * judge.accuracy_score(labels, called))
    assert found["mean_class"] == pytest.approx(100 * judge.balanced_accuracy_score(labels, called))
    assert found["top5"] == pytest.approx(
        100 * judge.top_k_accuracy_score(labels, probabilities, k=5, labels=np.arange(9))
    )
    table = confusion(called, labels, 9)
    assert np.array_equal(table, judge.confusion_matrix(labels, called, labels=np.arange(9)))


def test_classes_that_do_not_occur_do_not_count():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.6, 0.4, 0.0]])
    assert accuracy(probabilities, np.array([0, 0, 1]))["mean_class"] == pytest.approx(50)


def test_nothing_to_score():
    nothing = accuracy(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    assert nothing == {"top1": None, "top5": None, "mean_class": None}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_rank_and_order_agree_even_where_classes_are_equal(seed, classes):
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 3, (20, classes)) / 3
    labels = rng.integers(classes, size=20)
    order, ranks = top_classes(probabilities, classes), ranks_of(probabilities, labels)
    for row in range(20):
        assert order[row, ranks[row]] == labels[row]
        values = probabilities[row, order[row]]
        assert all(a >= b for a, b in zip(values, values[1:], strict=False))
