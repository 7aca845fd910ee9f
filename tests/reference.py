"""The losses a second time: float64, plain loops, equation numbers, no code of the package.

Arrays come in as nested sequences or NumPy arrays; y is 0 or 1; groups are 0 (head), 1, 2 (tail).
"Paper" is Lin, AAAI 2023; "DB" is Wu et al., ECCV 2020. Where the printed signs are wrong the
corrected equation stands here.
"""

import math

import numpy as np

FLOOR = 2.0**-23  # least probability that enters a ratio


def softplus(x):
    """log(1 + e^x)"""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def element_wise(function, z, y):
    """[B, C] of function(z_jc, y_jc, c)"""
    z = np.asarray(z, dtype=np.float64)
    out = np.empty_like(z)
    for j in range(z.shape[0]):
        for c in range(z.shape[1]):
            out[j, c] = function(float(z[j, c]), int(y[j][c]), c)
    return out


def class_bias(counts, num_images, kappa):
    """v_c = kappa log(N / n_c - 1)"""
    return [kappa * math.log(num_images / n - 1) for n in counts]


def bce(z, y):
    return element_wise(lambda z, y, c: softplus(-z) if y else softplus(z), z, y)


def ntr(z, y, lam, v):
    """Eq. 3"""

    def element(z, y, c):
        s = z - v[c]
        return softplus(-s) if y else softplus(lam[c] * s) / lam[c]

    return element_wise(element, z, y)


def pr(z, y, l1n, l2n, l1p, l2p, v):
    """Eq. 5"""

    def element(z, y, c):
        s = z - v[c]
        return softplus(-l1p[c] * s) / l2p[c] if y else softplus(l1n[c] * s) / l2n[c]

    return element_wise(element, z, y)


def focal(z, y, gamma):
    """Eq. 4"""

    def element(z, y, c):
        return sigmoid(-z) ** gamma * softplus(-z) if y else sigmoid(z) ** gamma * softplus(z)

    return element_wise(element, z, y)


def apaf(z, y, focus_neg, focus_pos):
    """Eq. 9 with its minus signs"""

    def element(z, y, c):
        if y:
            return sigmoid(-z) ** focus_pos[c] * softplus(-z)
        return sigmoid(z) ** focus_neg[c] * softplus(z)

    return element_wise(element, z, y)


def pg(z, y, l1n, l2n, l1p, l2p, focus_neg, focus_pos, v, focal_logit):
    """Eq. 10 with its signs corrected"""

    def element(z, y, c):
        s = z - v[c]
        l1 = l1p[c] if y else l1n[c]
        f = {"raw": z, "shifted": s, "scaled": l1 * s}[focal_logit]
        if y:
            return sigmoid(-f) ** focus_pos[c] * softplus(-l1 * s) / l2p[c]
        return sigmoid(f) ** focus_neg[c] * softplus(l1 * s) / l2n[c]

    return element_wise(element, z, y)


def batch_probabilities(z, y, groups):
    """Eqs. 6 and 7, with the rules for classes that this batch lacks"""
    num_images, num_classes = len(z), len(z[0])
    p_pos, p_neg = [None] * num_classes, [None] * num_classes
    for c in range(num_classes):
        of_positives = [sigmoid(z[j][c]) for j in range(num_images) if y[j][c]]
        of_negatives = [sigmoid(-z[j][c]) for j in range(num_images) if not y[j][c]]
        if of_positives:
            p_pos[c] = math.fsum(of_positives) / len(of_positives)
        if of_negatives:
            p_neg[c] = math.fsum(of_negatives) / len(of_negatives)

    def filled(own, other):
        result = []
        for c in range(num_classes):
            present = [own[k] for k in range(num_classes) if groups[k] == groups[c]]
            present = [p for p in present if p is not None]
            if own[c] is not None:
                result.append(own[c])
            elif present:
                result.append(math.fsum(present) / len(present))
            else:
                result.append(other[c])
        return result

    return filled(p_pos, p_neg), filled(p_neg, p_pos)


def quotient(a, b, max_ratio):
    r = max(a, FLOOR) / max(b, FLOOR)
    return r if max_ratio is None else min(max(r, 1 / max_ratio), max_ratio)


def effective_factors(z, y, groups, settings, max_ratio):
    """The six factors of a batch, each [C].

    settings[name] is (base by group, adaptive by group); for the focusing factors the base is
    0 (none), gamma (fixed) or lambda0 (adaptive).
    """
    p_pos, p_neg = batch_probabilities(z, y, groups)
    factors = {name: [] for name in settings}
    for c, g in enumerate(groups):
        neg_over_pos = quotient(p_neg[c], p_pos[c], max_ratio)
        pos_over_neg = quotient(p_pos[c], p_neg[c], max_ratio)
        adaptation = {
            "lambda1_pos": neg_over_pos,  # APR, spec section 4
            "lambda2_pos": pos_over_neg,
            "lambda1_neg": neg_over_pos,
            "lambda2_neg": neg_over_pos,
            "focusing_pos": pos_over_neg,  # APAF, Eq. 8
            "focusing_neg": neg_over_pos,
        }
        for name, (base, adaptive) in settings.items():
            factors[name].append(base[g] * (adaptation[name] if adaptive[g] else 1.0))
    return factors


def rebalanced_weight(y, counts, alpha, beta, mu):
    """DB section 3.1: r = (1 / n_c) / sum over the image's positives of 1 / n_k, smoothed"""
    out = np.empty((len(y), len(counts)))
    for i in range(len(y)):
        total = math.fsum(1 / counts[k] for k in range(len(counts)) if y[i][k])
        for c in range(len(counts)):
            if total == 0:
                out[i, c] = 1.0
            else:
                r = (1 / counts[c]) / total
                out[i, c] = alpha + sigmoid(beta * (r - mu))
    return out


def pg_module(z, y, *, counts, num_images, groups, settings, focal_logit, kappa, over_scale,
              max_ratio, rebalance, balance):  # fmt: skip
    """The whole loss: its scalar and the factors. rebalance is None or (alpha, beta, mu)."""
    factors = effective_factors(z, y, groups, settings, max_ratio)
    v = class_bias(counts, num_images, kappa)
    if over_scale:
        v = [v[c] / settings["lambda1_neg"][0][groups[c]] for c in range(len(counts))]
    elements = pg(
        z,
        y,
        factors["lambda1_neg"],
        factors["lambda2_neg"],
        factors["lambda1_pos"],
        factors["lambda2_pos"],
        factors["focusing_neg"],
        factors["focusing_pos"],
        v,
        focal_logit,
    )
    if rebalance is not None:
        elements = elements * rebalanced_weight(y, counts, *rebalance)
    return balance * math.fsum(elements.ravel()) / elements.size, factors
