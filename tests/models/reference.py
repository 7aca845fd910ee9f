"""The heads a second time: float64, plain loops, no code of the package."""

import math

import numpy as np


def cosine_logits(features, weights, scale):
    """Scale · cos(w_c, f); 0 for a vector of zeros"""
    logits = np.zeros((len(features), len(weights)))
    for b, f in enumerate(features):
        for c, w in enumerate(weights):
            dot = sum(float(x) * float(y) for x, y in zip(f, w, strict=True))
            length_f = math.sqrt(sum(float(x) ** 2 for x in f))
            length_w = math.sqrt(sum(float(x) ** 2 for x in w))
            logits[b, c] = scale * dot / (length_f * length_w) if length_f * length_w else 0.0
    return logits


def adjacency(targets, threshold, weight):
    """ML-GCN's graph. Row i of the result: what class i takes from each class."""
    num_classes = len(targets[0])
    classes = range(num_classes)
    images = [sum(int(row[i]) for row in targets) for i in classes]
    joined = [[0] * num_classes for _ in classes]
    for i in classes:
        for j in classes:
            both = sum(1 for row in targets if row[i] and row[j])
            if i != j and both / images[i] >= threshold:
                joined[i][j] = 1
    graph = np.zeros((num_classes, num_classes))
    for j in classes:
        takers = sum(joined[i][j] for i in classes)
        for i in classes:
            share = joined[i][j] * weight / (takers + 1e-6)
            graph[i, j] = share + (1.0 if i == j else 0.0)
    degree = [sum(graph[i, j] for j in classes) for i in classes]
    result = np.zeros((num_classes, num_classes))
    for i in classes:
        for j in classes:
            result[i, j] = graph[j, i] / math.sqrt(degree[i] * degree[j])
    return result


def product(a, b):
    """Return the matrix product of two nested sequences."""
    out = np.zeros((len(a), len(b[0])))
    for i in range(len(a)):
        for j in range(len(b[0])):
            out[i, j] = sum(float(a[i][k]) * float(b[k][j]) for k in range(len(b)))
    return out


def ml_gcn_logits(features, graph, words, weight1, weight2):
    """Eq. 2 of ML-GCN twice, then f Gᵀ"""
    hidden = product(graph, product(words, weight1))
    for i in range(len(hidden)):
        for j in range(len(hidden[0])):
            if hidden[i, j] < 0:
                hidden[i, j] *= 0.2
    classifiers = product(graph, product(hidden, weight2))
    return product(features, [list(column) for column in zip(*classifiers, strict=True)])
