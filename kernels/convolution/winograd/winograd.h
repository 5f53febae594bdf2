// The one-dimensional transforms of F(2, 3), F(3, 2) and F(4, 3), applied to the rows and columns of a tile: Bᵀ, A, G
// of Winograd's minimal filtering, for the first two also their adjoints. m outputs, n inputs and products.
#pragma once

#include "routine.h"

namespace {

struct Winograd2 {  // points 0, 1, -1, ∞
    static constexpr int m = 2, n = 4;
    static inline void input(const Vf* d, Vf* v) {  // Bᵀ
        v[0] = d[0] - d[2];
        v[1] = d[1] + d[2];
        v[2] = d[2] - d[1];
        v[3] = d[3] - d[1];
    }
    static inline void weight(const Vf* w, Vf* u) {  // G
        const Vf even = (w[0] + w[2]) * 0.5f, odd = w[1] * 0.5f;
        u[0] = w[0];
        u[1] = even + odd;
        u[2] = even - odd;
        u[3] = w[2];
    }
    static inline void output(const Vf* p, Vf* y) {  // Aᵀ
        y[0] = p[0] + p[1] + p[2];
        y[1] = p[1] - p[2] + p[3];
    }
    static inline void gradient(const Vf* y, Vf* z) {  // A
        z[0] = y[0];
        z[1] = y[0] + y[1];
        z[2] = y[0] - y[1];
        z[3] = y[1];
    }
    static inline void weight_gradient(const Vf* s, Vf* w) {  // Gᵀ
        const Vf even = (s[1] + s[2]) * 0.5f;
        w[0] = s[0] + even;
        w[1] = (s[1] - s[2]) * 0.5f;
        w[2] = even + s[3];
    }
};

struct Winograd3 {  // F(3, 2); points 0, 1, -1, ∞
    static constexpr int m = 3, n = 4;
    static inline void input(const Vf* d, Vf* v) { Winograd2::input(d, v); }
    static inline void weight(const Vf* w, Vf* u) {
        u[0] = w[0];
        u[1] = (w[0] + w[1]) * 0.5f;
        u[2] = (w[0] - w[1]) * 0.5f;
        u[3] = w[1];
    }
    static inline void output(const Vf* p, Vf* y) {
        const Vf even = p[1] + p[2];
        y[0] = p[0] + even;
        y[1] = p[1] - p[2];
        y[2] = even + p[3];
    }
    static inline void gradient(const Vf* y, Vf* z) {
        const Vf even = y[0] + y[2];
        z[0] = y[0];
        z[1] = even + y[1];
        z[2] = even - y[1];
        z[3] = y[2];
    }
    static inline void weight_gradient(const Vf* s, Vf* w) {
        w[0] = s[0] + (s[1] + s[2]) * 0.5f;
        w[1] = (s[1] - s[2]) * 0.5f + s[3];
    }
};

struct Winograd4 {  // points 0, ±a, ±b, ∞; the usual 1 and 2 have three times the rounding error
    static constexpr int m = 4, n = 6;
    static constexpr float a = 0.75f, b = 1.5f, aa = a * a, bb = b * b;
    static constexpr float g0 = 1 / (aa * bb), ga = 1 / (2 * aa * (aa - bb)), gb = 1 / (2 * bb * (bb - aa));
    static inline void input(const Vf* d, Vf* v) {
        const Vf even_a = d[4] - d[2] * bb, odd_a = d[3] * a - d[1] * (a * bb);
        const Vf even_b = d[4] - d[2] * aa, odd_b = d[3] * b - d[1] * (aa * b);
        v[0] = d[0] * (aa * bb) - d[2] * (aa + bb) + d[4];
        v[1] = even_a + odd_a;
        v[2] = even_a - odd_a;
        v[3] = even_b + odd_b;
        v[4] = even_b - odd_b;
        v[5] = d[1] * (aa * bb) - d[3] * (aa + bb) + d[5];
    }
    static inline void weight(const Vf* w, Vf* u) {
        const Vf even_a = w[0] * ga + w[2] * (aa * ga), odd_a = w[1] * (a * ga);
        const Vf even_b = w[0] * gb + w[2] * (bb * gb), odd_b = w[1] * (b * gb);
        u[0] = w[0] * g0;
        u[1] = even_a + odd_a;
        u[2] = even_a - odd_a;
        u[3] = even_b + odd_b;
        u[4] = even_b - odd_b;
        u[5] = w[2];
    }
    static inline void output(const Vf* p, Vf* y) {
        const Vf even_a = p[1] + p[2], odd_a = p[1] - p[2], even_b = p[3] + p[4], odd_b = p[3] - p[4];
        y[0] = p[0] + even_a + even_b;
        y[1] = odd_a * a + odd_b * b;
        y[2] = even_a * aa + even_b * bb;
        y[3] = odd_a * (a * aa) + odd_b * (b * bb) + p[5];
    }
};

}  // namespace
