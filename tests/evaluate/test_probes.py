"""k-NN and linear probes beside scikit-learn's, on the same features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from videohpm.evaluate.knn import knn_probabilities
from videohpm.evaluate.linear import (
    Standardise,
    Whiten,
    attentive_probabilities,
    choose_strength,
    fit_linear,
    linear_probabilities,
)

CLASSES = 5


def blobs(n, seed, spread=1.6, dim=12):
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(CLASSES, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=n)
    features = centres[labels] + spread * rng.normal(size=(n, dim))
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def data():
    return *blobs(300, 0), *blobs(150, 1)


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("temperature", [None, 0.07])
def test_knn_agrees_with_scikit_learn(data, k, temperature):
    train, labels, queries, _ = data
    weights = "uniform"
    if temperature is not None:

        def weights(distance):
            return np.exp((1 - distance) / temperature)

    judge = KNeighborsClassifier(k, metric="cosine", weights=weights, algorithm="brute")
    judge.fit(train.numpy(), labels.numpy())
    found = knn_probabilities(train, labels, queries, classes=CLASSES, k=k, temperature=temperature)
    np.testing.assert_allclose(found, judge.predict_proba(queries.numpy()), atol=2e-4)
    assert np.array_equal(found.argmax(1), judge.predict(queries.numpy()))


def test_knn_with_fewer_features_than_neighbours(data):
    train, labels, queries, _ = data
    found = knn_probabilities(train[:3], labels[:3], queries, classes=CLASSES, k=20)
    assert torch.allclose(found.sum(1), torch.ones(len(queries)))


@pytest.mark.parametrize("strength", [0.01, 1.0, 10.0])
def test_the_linear_probe_agrees_with_scikit_learn(data, strength):
    train, labels, queries, _ = data
    scaler = StandardScaler().fit(train.double().numpy())
    judge = LogisticRegression(C=strength, max_iter=10_000, tol=1e-10)
    judge.fit(scaler.transform(train.double().numpy()), labels.numpy())
    layer = fit_linear(Standardise(train)(train), labels, CLASSES, strength)
    np.testing.assert_allclose(layer.weight.numpy(), judge.coef_, atol=2e-4)
    # A constant added to all intercepts changes nothing.
    bias = layer.bias.numpy() - layer.bias.numpy().mean()
    np.testing.assert_allclose(bias, judge.intercept_ - judge.intercept_.mean(), atol=2e-4)
    found = linear_probabilities(train, labels, queries, classes=CLASSES, strength=strength)
    wanted = judge.predict_proba(scaler.transform(queries.double().numpy()))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_constant_feature_changes_nothing(data):
    train, labels, queries, _ = data

    def more(features):
        return torch.cat([features, torch.full((len(features), 1), 3.0)], 1)

    plain = linear_probabilities(train, labels, queries, classes=CLASSES, strength=1.0)
    wider = linear_probabilities(more(train), labels, more(queries), classes=CLASSES, strength=1.0)
    torch.testing.assert_close(plain, wider, atol=1e-5, rtol=0)


def test_strength_is_chosen_on_training_features_alone():
    """Few samples in many dimensions of noise need more regularisation than many in few."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    noisy = torch.randn(60, 400, generator=rng)
    noisy[:, 0] += 1.5 * labels
    clean = torch.randn(60, 1, generator=rng) + 40.0 * labels[:, None]
    strengths = (1e-4, 1e-2, 1.0, 100.0)
    assert choose_strength(noisy, labels, 2, strengths) < 100.0
    assert choose_strength(clean, labels, 2, strengths) == 1e-4  # all are right: the smallest
    assert choose_strength(noisy, labels, 2, (5.0,)) == 5.0


def test_whitened_tokens_have_no_mean_and_no_loud_direction():
    rng = torch.Generator().manual_seed(0)
    spread = torch.diag(torch.tensor([100.0, 1.0, 0.1])) @ torch.randn(3, 3, generator=rng)
    tokens = torch.randn(500, 4, 3, generator=rng) @ spread + 50 * torch.arange(4)[:, None]
    white = Whiten(tokens, floor=0.0)(tokens)
    torch.testing.assert_close(white.mean(0), torch.zeros(4, 3), atol=1e-3, rtol=0)
    flat = white.flatten(0, 1)
    torch.testing.assert_close(flat.T @ flat / len(flat), torch.eye(3), atol=1e-3, rtol=0)
    same = torch.ones(5, 4, 3)
    assert torch.equal(Whiten(same)(same), torch.zeros(5, 4, 3))


def test_the_attentive_probe_finds_the_token_that_tells():
    """One token of eight, at a random place, tells the class: their mean hides it, a query not."""
    rng = torch.Generator().manual_seed(0)

    def draw(n):
        labels = torch.randint(3, (n,), generator=rng)
        tokens = torch.randn(n, 8, 18, generator=rng)
        place = torch.randint(8, (n,), generator=rng)
        tokens[torch.arange(n), place] = 0.1 * torch.randn(n, 18, generator=rng)
        tokens[torch.arange(n), place, labels] = 6.0
        tokens[torch.arange(n), place, 3] = 6.0
        return tokens, labels

    train, labels = draw(600)
    queries, right = draw(200)
    settings = {"classes": 3, "heads": 3, "epochs": 15, "batch": 32, "lr": 3e-3}
    found = attentive_probabilities(train, labels, queries, **settings)
    assert (found.argmax(1) == right).float().mean() > 0.95
    mean = linear_probabilities(train.mean(1), labels, queries.mean(1), classes=3, strength=1.0)
    assert (mean.argmax(1) == right).float().mean() < (found.argmax(1) == right).float().mean()
    again = attentive_probabilities(train, labels, queries, **settings)
    assert torch.equal(found, again), "the seed decides"
