"""The losses a second time: float64, plain loops, equation numbers, no code of the package.

Arrays come in as nested sequences or NumPy arrays; y is 0 or 1; groups are 0 (head), 1, 2 (tail).
"Paper" is Lin, AAAI 2023; "DB" is Wu et al., ECCV 2020. Where the printed signs are wrong the
corrected equation stands here. The baselines have their slopes dL/dz, derived by hand, beside them.
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


def bce_element(z, y):
    return softplus(-z) if y else softplus(z)


def bce_slope(z, y):
    return -sigmoid(-z) if y else sigmoid(z)


def focal_element(z, y, gamma):
    wrong = sigmoid(-z) if y else sigmoid(z)  # 1 - p_t
    return wrong**gamma * bce_element(z, y)


def focal_slope(z, y, gamma):
    """Of (1 - p_t)^gamma BCE by the product rule; d(1 - p_t)/dz = -+ p_t (1 - p_t)"""
    sign = -1 if y else 1
    wrong, right = (sigmoid(-z), sigmoid(z)) if y else (sigmoid(z), sigmoid(-z))
    return sign * wrong**gamma * (gamma * right * bce_element(z, y) + wrong)


def class_weights(counts, num_images, weighting):
    """RW of Table 2"""
    power = {"sqrt": 0.5, "inv": 1.0}[weighting]
    return [(num_images / n) ** power for n in counts]


def rw(z, y, weights):
    """(value, slope), each [B, C]"""
    return (
        element_wise(lambda z, y, c: weights[c] * bce_element(z, y), z, y),
        element_wise(lambda z, y, c: weights[c] * bce_slope(z, y), z, y),
    )


def effective_number_weight(n, beta):
    """Cui et al., CVPR 2019: (1 - beta) / (1 - beta^n)"""
    return (1 - beta) / (1 - beta**n)


def class_balanced_weights(y, counts, beta, mode):
    """[B, C], by the four modes of DB's code; 1 - beta for an image without positives"""
    out = np.empty((len(y), len(counts)))
    for i in range(len(y)):
        mine = [counts[k] for k in range(len(counts)) if y[i][k]]
        for c in range(len(counts)):
            if mode == "by_class":
                out[i, c] = effective_number_weight(counts[c], beta)
            elif not mine:
                out[i, c] = 1 - beta
            elif mode == "average_w":
                out[i, c] = math.fsum(effective_number_weight(n, beta) for n in mine) / len(mine)
            elif mode == "average_n":
                out[i, c] = effective_number_weight(math.fsum(mine) / len(mine), beta)
            elif mode == "min_n":
                out[i, c] = effective_number_weight(min(mine), beta)
    return out


def cb_focal(z, y, counts, beta, mode, gamma):
    """(value, slope), each [B, C], without the balance"""
    weights = class_balanced_weights(y, counts, beta, mode)
    return (
        weights * element_wise(lambda z, y, c: focal_element(z, y, gamma), z, y),
        weights * element_wise(lambda z, y, c: focal_slope(z, y, gamma), z, y),
    )


def ldam(z, y, counts, scale, margin, reweight_beta):
    """Cao et al., NeurIPS 2019, with BCE: (value, slope), each [B, C]"""
    roots = [n ** (-1 / 4) for n in counts]
    margins = [margin * root / max(roots) for root in roots]
    weights = [1.0] * len(counts)
    if reweight_beta is not None:
        weights = [effective_number_weight(n, reweight_beta) for n in counts]
        weights = [w * len(counts) / math.fsum(weights) for w in weights]

    def moved(z, y, c):
        return z - scale * margins[c] if y else z

    return (
        element_wise(lambda z, y, c: weights[c] * bce_element(moved(z, y, c), y), z, y),
        element_wise(lambda z, y, c: weights[c] * bce_slope(moved(z, y, c), y), z, y),
    )


def asl(z, y, gamma_pos, gamma_neg, clip, clamp):
    """Ridnik et al., ICCV 2021: (value, slope), each [B, C]; the factors are constants"""

    def value(z, y, c):
        p = sigmoid(z)
        if y:
            return -(sigmoid(-z) ** gamma_pos) * math.log(max(p, clamp))
        p_m = max(p - clip, 0.0)
        # log1p(-p_m) is log(1 - p_m); at clip 0 and a large z the other form keeps the digits
        rest = math.log1p(-p_m) if p_m < 0.5 else math.log(max(sigmoid(-z) + clip, clamp))
        return -(p_m**gamma_neg) * rest

    def slope(z, y, c):
        p = sigmoid(z)
        if y:
            return -(sigmoid(-z) ** gamma_pos) * sigmoid(-z) if p > clamp else 0.0
        p_m = max(p - clip, 0.0)
        rest = min(sigmoid(-z) + clip, 1.0)
        if p_m == 0.0 or rest <= clamp:
            return 0.0
        return p_m**gamma_neg * p * sigmoid(-z) / rest

    return element_wise(value, z, y), element_wise(slope, z, y)


def db(z, y, *, counts, num_images, scale, kappa, over_scale, rebalance, gamma, balance):
    """DB in its own form: balance (1 - p_t(u))^gamma omega BCE(u, y); (value, slope), each [B, C].

    u = s (y = 1) or lambda s (y = 0); omega = r (y = 1) or r / lambda (y = 0); s = z - v / lambda
    as its code has it, or z - v. rebalance is None (r = 1) or (alpha, beta, mu).
    """
    r = np.ones((len(z), len(counts)))
    if rebalance is not None:
        r = rebalanced_weight(y, counts, *rebalance)
    value, slope = np.empty_like(r), np.empty_like(r)
    for i in range(len(z)):
        for c in range(len(counts)):
            v = kappa * math.log(num_images / counts[c] - 1)
            s = z[i][c] - (v / scale if over_scale else v)
            u = s if y[i][c] else scale * s
            omega = r[i, c] if y[i][c] else r[i, c] / scale
            du_dz = 1.0 if y[i][c] else scale
            value[i, c] = balance * omega * focal_element(u, y[i][c], gamma)
            slope[i, c] = balance * omega * focal_slope(u, y[i][c], gamma) * du_dz
    return value, slope
