// Vector exponential and logarithm, accurate to about two units in the last place; NaN stays NaN.
#pragma once

#include "routine.h"

namespace {

// e^x for x <= 88; below -87.3 it stays at about 2^-126, if clamped (else x must not be there).
template <bool kClamp = true>
inline Vf exp_vector(Vf x) {
    if (kClamp) x = x < -87.3f ? splat(-87.3f) : x;
    const Vf shifted = x * 1.44269504f + 12582912.0f;  // + 1.5 * 2^23: the low bits are n = round(x / ln 2)
    // One step of reduction is enough: ln 2 as a float is off by 2e-9, times n where the result is 2^n.
    const Vf f = x - (shifted - 12582912.0f) * 0.693147182f;
    // e^f for |f| <= ln 2 / 2: minimax, relative error 1.6e-7 at most, 6e-8 on average
    Vf p = splat(8.31252057e-3f);
    p = p * f + 4.18901555e-2f;
    p = p * f + 1.66671142e-1f;
    p = p * f + 4.99992311e-1f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    return (Vf)((Vu)p + ((Vu)shifted << 23));
}

// ln x for positive, normal x.
[[maybe_unused]] inline Vf log_vector(Vf x) {
    const Vi exponent = ((Vi)x - 0x3f3504f3) >> 23;  // x = m 2^exponent, m in [sqrt(1/2), sqrt(2))
    const Vf f = (Vf)((Vi)x - (exponent << 23)) - 1.0f;
    const Vf n = __builtin_convertvector(exponent, Vf);
    // ln(1 + f) = f - f^2 / 2 + f^3 P(f), P after Cephes logf
    Vf p = splat(7.0376836292e-2f);
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    const Vf square = f * f;
    Vf y = p * square * f + n * -2.12194440e-4f;  // ln 2 = 0.693359375 - 2.12194440e-4
    y = f + (y - 0.5f * square) + n * 0.693359375f;
    return x <= 3.0e38f ? y : x;  // NaN and infinity as they are
}

}  // namespace
