// What one column of pixels of each cell goes through: its exponentials, P, losses, and the moments that
// gather the gradient of the cell's corners. softmax.cpp runs these block by block.
#pragma once

#include <math.h>

#include "exponential.h"
#include "upsample.h"

namespace {

constexpr int kRows = 8;                // output rows that are in flight together, at most
constexpr float kTinySum = 0x1p-60f;    // below this the cell's largest corner was too loose a bound
constexpr float kTinyTerms = 0x1p-100f; // below this a product of four terms is not divided by
constexpr float kExponentRange = 87.0f; // a block whose corners span less needs no clamping

// A full-resolution tensor [B][C][H][W] of any strides.
struct Map {
    void* data;
    int64_t stride_b, stride_c, stride_h, stride_w;
};

struct Job {
    Scores scores;
    const uint8_t* labels;   // forward: null where only P is wanted
    uint16_t lookup[256];    // label -> class, or `classes` where ignored; + 256 where out of range
    const uint8_t* full;     // labels' shape: pixels of weight 1, the others have their image's `scale`; or null
    const float* scale;      // [B], with `full`
    uint8_t* winners;        // labels' shape: the most probable class of each pixel; or null
    float threshold;         // with `winners`: a pixel whose P is larger is counted as valid
    Map probabilities;       // forward: P, written if data; backward: the gradient of P
    float* gradient;         // [B][h][w][C], or null
    float* carry;            // [tasks][w][C]: the gradient of the first row below each band
    double* loss;            // [tasks]
    int64_t* valid;          // [tasks]
    int* refused;            // [tasks]
    Axis rows, columns;
    Blocks blocks;
    bool backward;
    size_t row_floats, worker_floats;
    float* memory;
};

// The buffers of one worker.
struct Worker {
    float *top, *bottom;            // scores [C][padded]
    float *grad_top, *grad_bottom;  // their gradients
    float *corners, *moments;       // [C][4][kLanes]
    float *terms;     // [C + 1][R][kLanes]: exponentials, then the scores' gradient; one more class takes the ignored
    float *incoming;  // [C][R][kLanes]: backward: the gradient of P
    float *zeros;     // [C]: the gradient of P where there is no pixel

    static size_t floats(int classes, size_t row_floats) {
        return 4 * row_floats + static_cast<size_t>(classes + 1) * kLanes * (8 + 2 * kRows + 1);
    }

    Worker(float* memory, int classes, size_t row_floats) {
        const size_t vectors = static_cast<size_t>(classes + 1) * kLanes;
        top = memory, bottom = top + row_floats;
        grad_top = bottom + row_floats, grad_bottom = grad_top + row_floats;
        corners = grad_bottom + row_floats;
        moments = corners + 4 * vectors;
        terms = moments + 4 * vectors;
        incoming = terms + kRows * vectors;
        zeros = incoming + kRows * vectors;
    }
};

struct Totals {
    Vf loss = {};
    int64_t valid = 0;
    int refused = 0;
};

// One phase of one block: R output rows of which `held` exist (the others repeat the first and do not count).
template <int R>
struct Pixels {
    int y, held, x0;
    const int* slot;  // [kLanes]: column less x0, or -1 where the cell has no such pixel
    Vf tx, ty[R], sum[R], inverse[R];
    Vi label[R];      // class, or `classes` where nothing counts
    Vi full[R];       // with Job.full: -1 where the pixel's weight is 1, 0 where it is its image's scale
};

inline bool any(Vi mask) {
    int32_t found = 0;
    for (int lane = 0; lane < kLanes; ++lane) found |= mask[lane];
    return found != 0;
}

inline Vf value_at(const float* corners, int c, Vf tx, Vf ty) {
    const float* p = corners + 4 * c * kLanes;
    return load(p) + tx * load(p + kLanes) + ty * (load(p + 2 * kLanes) + tx * load(p + 3 * kLanes));
}

template <int R>
int read_labels(const Job& job, int image, Pixels<R>& px, Totals& totals) {
    const int classes = job.scores.classes, width = job.columns.out;
    int32_t found[R][kLanes];
    int counted = 0, flags = 0;
    for (int i = 0; i < R; ++i) {
        const uint8_t* row =
            job.labels + (static_cast<size_t>(image) * job.rows.out + px.y + (i < px.held ? i : 0)) * width + px.x0;
        for (int lane = 0; lane < kLanes; ++lane) {
            const int entry =
                i < px.held && px.slot[lane] >= 0 ? job.lookup[row[px.slot[lane]]] : classes;
            flags |= entry;
            found[i][lane] = entry & 255;
            counted += (entry & 255) < classes;
        }
    }
    std::memcpy(px.label, found, sizeof found);
    totals.valid += counted;
    totals.refused |= flags >> 8;
    return counted;
}

template <int R>
void read_full(const Job& job, int image, Pixels<R>& px) {
    const int width = job.columns.out;
    int32_t found[R][kLanes];
    for (int i = 0; i < R; ++i) {
        const uint8_t* row =
            job.full + (static_cast<size_t>(image) * job.rows.out + px.y + (i < px.held ? i : 0)) * width + px.x0;
        for (int lane = 0; lane < kLanes; ++lane) found[i][lane] = px.slot[lane] >= 0 && row[px.slot[lane]] ? -1 : 0;
    }
    std::memcpy(px.full, found, sizeof found);
}

// terms = e^(score - bound), sum over the classes, 1 / sum.
template <int R, bool kClamp>
void exponentials(const Worker& w, int classes, Pixels<R>& px) {
    Vf sum[R];
    for (int i = 0; i < R; ++i) sum[i] = Vf{};
    for (int c = 0; c < classes; ++c) {
        const float* p = w.corners + 4 * c * kLanes;
        const Vf upper = load(p) + px.tx * load(p + kLanes);
        const Vf step = load(p + 2 * kLanes) + px.tx * load(p + 3 * kLanes);
        float* to = w.terms + c * R * kLanes;
        for (int i = 0; i < R; ++i) {
            const Vf term = exp_vector<kClamp>(upper + px.ty[i] * step);
            store(to + i * kLanes, term);
            sum[i] += term;
        }
    }
    for (int i = 0; i < R; ++i) {
        if (any(sum[i] < kTinySum)) {  // take the pixels' own maxima
            Vf largest = splat(-3.0e38f);
            for (int c = 0; c < classes; ++c) {
                const Vf value = value_at(w.corners, c, px.tx, px.ty[i]);
                largest = value > largest ? value : largest;
            }
            sum[i] = Vf{};
            for (int c = 0; c < classes; ++c) {
                const Vf term = exp_vector<true>(value_at(w.corners, c, px.tx, px.ty[i]) - largest);
                store(w.terms + (c * R + i) * kLanes, term);
                sum[i] += term;
            }
        }
        px.sum[i] = sum[i];
        px.inverse[i] = 1.0f / sum[i];
    }
}

// P = terms / sum, to wherever the pixels are.
template <int R>
void write_probabilities(const Job& job, const Worker& w, int image, const Pixels<R>& px) {
    const Map& map = job.probabilities;
    const int classes = job.scores.classes;
    for (int i = 0; i < px.held; ++i) {
        const int64_t row = image * map.stride_b + (px.y + i) * map.stride_h + px.x0 * map.stride_w;
        if (job.scores.type == kFloat32 && map.stride_c == 1 && classes >= kLanes) {
            float* to = static_cast<float*>(map.data) + row;
            for (int first = 0; first < classes; first += kLanes) {  // the last kLanes classes overlap
                const int c = first + kLanes <= classes ? first : classes - kLanes;
                Vf tile[kLanes];
                for (int k = 0; k < kLanes; ++k)
                    tile[k] = load(w.terms + ((c + k) * R + i) * kLanes) * px.inverse[i];
                transpose(tile);
                for (int lane = 0; lane < kLanes; ++lane)
                    if (px.slot[lane] >= 0) store(to + px.slot[lane] * map.stride_w + c, tile[lane]);
            }
        } else {
            for (int lane = 0; lane < kLanes; ++lane)
                for (int c = 0; c < classes && px.slot[lane] >= 0; ++c)
                    set_element(map.data, job.scores.type,
                                row + px.slot[lane] * map.stride_w + c * map.stride_c,
                                w.terms[(c * R + i) * kLanes + lane] * px.inverse[i][lane]);
        }
    }
}

// The class of the largest term of each pixel, to wherever the pixels are; counts the confident ones.
template <int R>
void write_winners(const Job& job, const Worker& w, int image, const Pixels<R>& px, Totals& totals) {
    for (int i = 0; i < px.held; ++i) {
        Vf largest = load(w.terms + i * kLanes);
        Vi winner = {};
        for (int c = 1; c < job.scores.classes; ++c) {
            const Vf term = load(w.terms + (c * R + i) * kLanes);
            winner = term > largest ? splat_int(c) : winner;
            largest = term > largest ? term : largest;
        }
        const Vi confident = largest * px.inverse[i] > job.threshold;
        uint8_t* row = job.winners + (static_cast<size_t>(image) * job.rows.out + px.y + i) * job.columns.out + px.x0;
        for (int lane = 0; lane < kLanes; ++lane)
            if (px.slot[lane] >= 0) {
                row[px.slot[lane]] = static_cast<uint8_t>(winner[lane]);
                totals.valid -= confident[lane];
            }
    }
}

// The reverse: the gradient of P, zero where there is no pixel.
template <int R>
void read_incoming(const Job& job, const Worker& w, int image, const Pixels<R>& px) {
    const Map& map = job.probabilities;
    const int classes = job.scores.classes;
    for (int i = 0; i < px.held; ++i) {
        const int64_t row = image * map.stride_b + (px.y + i) * map.stride_h + px.x0 * map.stride_w;
        if (job.scores.type == kFloat32 && map.stride_c == 1 && classes >= kLanes) {
            const float* from = static_cast<const float*>(map.data) + row;
            for (int first = 0; first < classes; first += kLanes) {
                const int c = first + kLanes <= classes ? first : classes - kLanes;
                Vf tile[kLanes];
                for (int lane = 0; lane < kLanes; ++lane)
                    tile[lane] = load((px.slot[lane] < 0 ? w.zeros : from + px.slot[lane] * map.stride_w) + c);
                transpose(tile);
                for (int k = 0; k < kLanes; ++k) store(w.incoming + ((c + k) * R + i) * kLanes, tile[k]);
            }
        } else {
            for (int lane = 0; lane < kLanes; ++lane)
                for (int c = 0; c < classes; ++c)
                    w.incoming[(c * R + i) * kLanes + lane] =
                        px.slot[lane] < 0 ? 0.0f
                                          : element(map.data, job.scores.type,
                                                    row + px.slot[lane] * map.stride_w + c * map.stride_c);
        }
    }
}

// The losses of one row of pixels where a term is too small to divide by: from the scores.
__attribute__((noinline)) Vf far_losses(const Worker& w, int classes, Vf tx, Vf ty, Vi label) {
    Vf largest = splat(-3.0e38f), own = {}, total = {};
    for (int c = 0; c < classes; ++c) {
        const Vf value = value_at(w.corners, c, tx, ty);
        largest = value > largest ? value : largest;
        own = label == splat_int(c) ? value : own;
    }
    for (int c = 0; c < classes; ++c) total += exp_vector(value_at(w.corners, c, tx, ty) - largest);
    return label < classes ? largest - own + log_vector(total) : Vf{};
}

// The losses of four rows of pixels, those where `counts`. Their sum is one logarithm:
// ln(sum sum sum sum / term term term term).
template <int R>
Vf four_losses(const Worker& w, int classes, const Pixels<R>& px, const float (*picked)[kLanes], const Vi* counts,
               int begin) {
    Vf numerator = splat(1.0f), denominator = numerator, loss = {};
    for (int i = begin; i < begin + 4; ++i) {
        numerator *= counts[i] ? px.sum[i] : splat(1.0f);
        denominator *= counts[i] ? load(picked[i]) : splat(1.0f);
    }
    if (!any((denominator < kTinyTerms) | (numerator < kTinyTerms))) return log_vector(numerator / denominator);
    for (int i = begin; i < begin + 4; ++i)
        loss += far_losses(w, classes, px.tx, px.ty[i], counts[i] ? px.label[i] : splat_int(classes));
    return loss;
}

// Adds the losses, and takes the sum from each label's term: (P - 1) sum is its score's gradient.
template <int R>
void add_losses(const Job& job, const Worker& w, int image, const Pixels<R>& px, Totals& totals) {
    const int classes = job.scores.classes;
    float picked[R][kLanes], sum[R][kLanes];
    int32_t label[R][kLanes];
    std::memcpy(sum, px.sum, sizeof sum);
    std::memcpy(label, px.label, sizeof label);
    for (int i = 0; i < R; ++i)
        for (int lane = 0; lane < kLanes; ++lane) {
            float* term = w.terms + (label[i][lane] * R + i) * kLanes + lane;
            picked[i][lane] = *term;
            *term -= sum[i][lane];
        }
    Vi counts[R], scaled[R];
    for (int i = 0; i < R; ++i) {
        counts[i] = px.label[i] < classes;
        if (job.full) scaled[i] = counts[i] & ~px.full[i], counts[i] &= px.full[i];
    }
    for (int begin = 0; begin < R; begin += 4) {
        totals.loss += four_losses(w, classes, px, picked, counts, begin);
        if (job.full) totals.loss += splat(job.scale[image]) * four_losses(w, classes, px, picked, scaled, begin);
    }
}

// Adds what the scores' gradients (terms times weight) give to the corners.
template <int R>
void add_moments(const Worker& w, int classes, const Pixels<R>& px, const Vf* weight) {
    Vf weight_ty[R];
    for (int i = 0; i < R; ++i) weight_ty[i] = weight[i] * px.ty[i];
    for (int c = 0; c < classes; c += 2) {  // two at a time share the weights; the row past an odd last is spare
        const float* terms = w.terms + c * R * kLanes;
        Vf g = {}, gy = {}, h = {}, hy = {};
        for (int i = 0; i < R; ++i) {
            const Vf term = load(terms + i * kLanes), next = load(terms + (R + i) * kLanes);
            g += term * weight[i];
            gy += term * weight_ty[i];
            h += next * weight[i];
            hy += next * weight_ty[i];
        }
        float* m = w.moments + 4 * c * kLanes;
        const Vf sums[8] = {g, px.tx * g, gy, px.tx * gy, h, px.tx * h, hy, px.tx * hy};
        for (int k = 0; k < 8; ++k) store(m + k * kLanes, load(m + k * kLanes) + sums[k]);
    }
}

}  // namespace
