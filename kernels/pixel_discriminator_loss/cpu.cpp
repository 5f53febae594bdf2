// The pixel discriminator behind its first matrix product (Eq. 7–8): bias, LeakyReLU, second product,
// log-softmax, both losses, and the gradients of everything up to the hidden layer.
//
// A task owns a chunk of pixels and takes it in tiles whose hidden rows stay in the L2 cache from the first
// read to the gradient that overwrites them. Gradients of the weights are summed for each chunk and added up
// in the order of the chunks, so the result depends on neither the number of threads nor their timing.
#include "exponential.h"
#include "nearest.h"

namespace {

constexpr int64_t kChunk = 256;  // pixels of a task
constexpr int64_t kTile = 16;    // pixels whose hidden rows are in cache at a time
constexpr int kRows = FASTASS_LANES == 16 ? 4 : 2;  // pixels of a product's register tile

struct Tail {
    float* hidden;           // [R, M] in: F W1ᵀ; out: gradient of the domain loss, if asked for
    float* adversarial;      // [R, M] out: gradient of the adversarial loss, or null
    const uint8_t* classes;  // [R]
    int64_t rows, width;     // R, M
    int num_classes, outputs, padded;  // C, 2C, 2C rounded up to whole vectors
    const float *bias1, *weight2, *bias2;
    const float* packed;  // weight2ᵀ [M, padded]
    float slope;
    int domain;
    bool weight_gradient;
    float* partials;  // [chunks, padded, M] + [chunks, M]: gradients of weight2 and bias1
    double* sums;     // [chunks, 2 + padded]: both losses, gradient of bias2
};

// logits [ROWS, padded] = hidden [ROWS, M] · packed, for V vectors of outputs from `first` on.
template <int ROWS, int V>
inline void logits_block(const Tail& tail, const float* hidden, int first, float* logits) {
    Vf sum[ROWS][V] = {};
    for (int64_t m = 0; m < tail.width; ++m) {
        const float* weight = tail.packed + m * tail.padded + first;
        Vf w[V];
        for (int v = 0; v < V; ++v) w[v] = load(weight + v * kLanes);
        for (int r = 0; r < ROWS; ++r) {
            const Vf a = splat(hidden[r * tail.width + m]);
            for (int v = 0; v < V; ++v) sum[r][v] += a * w[v];
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < V; ++v) store(logits + r * tail.padded + first + v * kLanes, sum[r][v]);
}

template <int ROWS>
void logits_rows(const Tail& tail, const float* hidden, float* logits) {
    constexpr int kWide = FASTASS_LANES == 8 ? 5 : 3;
    int first = 0;
    for (; first + kWide * kLanes <= tail.padded; first += kWide * kLanes)
        logits_block<ROWS, kWide>(tail, hidden, first, logits);
    for (; first < tail.padded; first += kLanes) logits_block<ROWS, 1>(tail, hidden, first, logits);
}

// Logits → gradient of the domain loss, in place (padding becomes 0); adds both losses to `loss`.
void softmax_row(const Tail& tail, float* row, uint8_t k, double* loss) {
    float most = row[0] + tail.bias2[0];
    for (int j = 0; j < tail.outputs; ++j) {
        row[j] += tail.bias2[j];
        most = row[j] > most ? row[j] : most;
    }
    const int domain_class = k + tail.num_classes * tail.domain, wanted = k + tail.num_classes;
    const float domain_logit = row[domain_class] - most, wanted_logit = row[wanted] - most;
    for (int j = 0; j < tail.padded; j += kLanes) store(row + j, exp_vector(load(row + j) - most));
    for (int j = tail.outputs; j < tail.padded; ++j) row[j] = 0;
    float total = 0;
    for (int j = 0; j < tail.outputs; ++j) total += row[j];
    const float logarithm = __builtin_logf(total);
    loss[0] += logarithm - domain_logit;
    loss[1] += logarithm - wanted_logit;
    const float scale = 1.0f / total;
    for (int j = 0; j < tail.outputs; ++j) row[j] *= scale;
    row[domain_class] -= 1.0f;
}

// gradient of weight2 [padded, M] += logit gradientᵀ [padded, count] · hidden [count, M]; column by column.
void add_weight2(const Tail& tail, const float* gradient, const float* hidden, int64_t count, float* sum) {
    constexpr int kOutputs = 4;  // divides `padded`
    int64_t m = 0;
    for (; m + 2 * kLanes <= tail.width; m += 2 * kLanes) {
        for (int j = 0; j < tail.padded; j += kOutputs) {
            Vf acc[kOutputs][2];
            for (int i = 0; i < kOutputs; ++i)
                for (int v = 0; v < 2; ++v) acc[i][v] = load(sum + (j + i) * tail.width + m + v * kLanes);
            for (int64_t r = 0; r < count; ++r) {
                const Vf a0 = load(hidden + r * tail.width + m), a1 = load(hidden + r * tail.width + m + kLanes);
                for (int i = 0; i < kOutputs; ++i) {
                    const Vf g = splat(gradient[r * tail.padded + j + i]);
                    acc[i][0] += g * a0;
                    acc[i][1] += g * a1;
                }
            }
            for (int i = 0; i < kOutputs; ++i)
                for (int v = 0; v < 2; ++v) store(sum + (j + i) * tail.width + m + v * kLanes, acc[i][v]);
        }
    }
    for (; m < tail.width; ++m)
        for (int j = 0; j < tail.outputs; ++j)
            for (int64_t r = 0; r < count; ++r)
                sum[j * tail.width + m] += gradient[r * tail.padded + j] * hidden[r * tail.width + m];
}

// Gradients of the hidden rows. hidden [ROWS, M]: in activations, out the domain gradient. The adversarial
// gradient differs by two columns of the logits' gradient: class k (+1) and class k + C (−1), in domain 0.
template <int ROWS>
void hidden_rows(const Tail& tail, const float* gradient, const uint8_t* classes, float* hidden,
                 float* adversarial, float* bias1) {
    const int64_t M = tail.width;
    const float *plus[ROWS], *minus[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        plus[r] = tail.weight2 + (classes[r] + tail.num_classes * tail.domain) * M;
        minus[r] = tail.weight2 + (classes[r] + tail.num_classes) * M;
    }
    int64_t m = 0;
    for (; m + 2 * kLanes <= M; m += 2 * kLanes) {
        Vf sum[ROWS][2] = {};
        for (int j = 0; j < tail.outputs; ++j) {
            const Vf w0 = load(tail.weight2 + j * M + m), w1 = load(tail.weight2 + j * M + m + kLanes);
            for (int r = 0; r < ROWS; ++r) {
                const Vf g = splat(gradient[r * tail.padded + j]);
                sum[r][0] += g * w0;
                sum[r][1] += g * w1;
            }
        }
        for (int v = 0; v < 2; ++v) {
            const int64_t at = m + v * kLanes;
            Vf bias = bias1 ? load(bias1 + at) : Vf{};
            for (int r = 0; r < ROWS; ++r) {
                const Vf slope = load(hidden + r * M + at) > 0.0f ? splat(1.0f) : splat(tail.slope);
                const Vf domain = sum[r][v] * slope;
                if (adversarial)
                    store(adversarial + r * M + at,
                          (sum[r][v] + (load(plus[r] + at) - load(minus[r] + at))) * slope);
                store(hidden + r * M + at, domain);
                bias += domain;
            }
            if (bias1) store(bias1 + at, bias);
        }
    }
    for (; m < M; ++m) {
        for (int r = 0; r < ROWS; ++r) {
            float sum = 0;
            for (int j = 0; j < tail.outputs; ++j) sum += gradient[r * tail.padded + j] * tail.weight2[j * M + m];
            const float slope = hidden[r * M + m] > 0.0f ? 1.0f : tail.slope;
            if (adversarial) adversarial[r * M + m] = (sum + (plus[r][m] - minus[r][m])) * slope;
            hidden[r * M + m] = sum * slope;
            if (bias1) bias1[m] += sum * slope;
        }
    }
}

void activate(const Tail& tail, float* row) {
    int64_t m = 0;
    for (; m + kLanes <= tail.width; m += kLanes) {
        const Vf x = load(row + m) + load(tail.bias1 + m);
        store(row + m, x > 0.0f ? x : x * tail.slope);
    }
    for (; m < tail.width; ++m) {
        const float x = row[m] + tail.bias1[m];
        row[m] = x > 0.0f ? x : x * tail.slope;
    }
}

void chunk_task(void* context, int64_t index, int) {
    const Tail& tail = *static_cast<const Tail*>(context);
    const int64_t M = tail.width, last = tail.rows < (index + 1) * kChunk ? tail.rows : (index + 1) * kChunk;
    float* weight2 = tail.partials + index * (tail.padded + 1) * M;
    float* bias1 = weight2 + tail.padded * M;
    double* sums = tail.sums + index * (2 + tail.padded);
    std::memset(sums, 0, sizeof(double) * (2 + tail.padded));
    if (tail.weight_gradient) std::memset(weight2, 0, sizeof(float) * (tail.padded + 1) * M);
    alignas(64) float logits[kTile * 512];  // padded <= 512: uint8 labels, two outputs a class

    for (int64_t start = index * kChunk; start < last; start += kTile) {
        const int64_t count = last - start < kTile ? last - start : kTile;
        float* hidden = tail.hidden + start * M;
        const uint8_t* classes = tail.classes + start;
        int64_t r = 0;
        for (int64_t i = 0; i < count; ++i) activate(tail, hidden + i * M);
        for (; r + kRows <= count; r += kRows)
            logits_rows<kRows>(tail, hidden + r * M, logits + r * tail.padded);
        for (; r < count; ++r) logits_rows<1>(tail, hidden + r * M, logits + r * tail.padded);
        for (r = 0; r < count; ++r) softmax_row(tail, logits + r * tail.padded, classes[r], sums);
        if (tail.weight_gradient) {
            add_weight2(tail, logits, hidden, count, weight2);
            for (r = 0; r < count; ++r)
                for (int j = 0; j < tail.outputs; ++j) sums[2 + j] += logits[r * tail.padded + j];
        }
        if (!tail.weight_gradient && !tail.adversarial) continue;
        float* bias = tail.weight_gradient ? bias1 : nullptr;
        float* adversarial = tail.adversarial ? tail.adversarial + start * M : nullptr;
        for (r = 0; r + 4 <= count; r += 4)
            hidden_rows<4>(tail, logits + r * tail.padded, classes + r, hidden + r * M,
                           adversarial ? adversarial + r * M : nullptr, bias);
        for (; r < count; ++r)
            hidden_rows<1>(tail, logits + r * tail.padded, classes + r, hidden + r * M,
                           adversarial ? adversarial + r * M : nullptr, bias);
    }
}

}  // namespace

// index [B·h·w]: the `*count` valid pixels in memory order, then the ignored ones; classes [*count] of the valid.
FASTASS_ROUTINE(valid_pixels)
(const uint8_t* labels, const int32_t* rows, const int32_t* cols, int64_t batch, int64_t h, int64_t w,
 int64_t label_height, int64_t label_width, int num_classes, int ignore, int64_t* index, uint8_t* classes,
 int64_t* count) {
    Scratch map(h * w);
    if (!map.memory) return kNoMemory;
    int64_t found = 0, ignored = batch * h * w;
    for (int64_t image = 0; image < batch; ++image) {
        if (!nearest_classes(labels + image * label_height * label_width, label_width, rows, cols, h, w,
                             num_classes, ignore, map.as<uint8_t>()))
            return kBadLabel;
        for (int64_t p = 0; p < h * w; ++p) {
            const uint8_t k = map.as<uint8_t>()[p];
            if (k == kIgnored) {
                index[--ignored] = image * h * w + p;
            } else {
                index[found] = image * h * w + p;
                classes[found++] = k;
            }
        }
    }
    *count = found;
    return kOk;
}

// One block of pixels: see Tail. losses [2] and, if weight_gradient, bias1 [M], weight2 [2C, M] and bias2 [2C]
// gradients are added to; nothing is divided by the number of pixels.
FASTASS_ROUTINE(pixel_discriminator)
(float* hidden, const uint8_t* classes, int64_t rows, int64_t width, int num_classes, const float* bias1,
 const float* weight2, const float* bias2, float slope, int domain, int weight_gradient, float* adversarial,
 double* losses, float* gradient_bias1, float* gradient_weight2, float* gradient_bias2, int threads) {
    const int outputs = 2 * num_classes, padded = (outputs + kLanes - 1) / kLanes * kLanes;
    if (padded > 512) return kBadArgument;
    const int64_t chunks = (rows + kChunk - 1) / kChunk;
    Scratch packed(sizeof(float) * width * padded);
    Scratch partials(weight_gradient ? sizeof(float) * chunks * (padded + 1) * width : 0);
    Scratch sums(sizeof(double) * chunks * (2 + padded));
    if (!packed.memory || !partials.memory || !sums.memory) return kNoMemory;
    for (int64_t m = 0; m < width; ++m)
        for (int j = 0; j < padded; ++j)
            packed.as<float>()[m * padded + j] = j < outputs ? weight2[j * width + m] : 0.0f;

    Tail tail{};
    tail.hidden = hidden;
    tail.adversarial = adversarial;
    tail.classes = classes;
    tail.rows = rows;
    tail.width = width;
    tail.num_classes = num_classes;
    tail.outputs = outputs;
    tail.padded = padded;
    tail.bias1 = bias1;
    tail.weight2 = weight2;
    tail.bias2 = bias2;
    tail.packed = packed.as<float>();
    tail.slope = slope;
    tail.domain = domain;
    tail.weight_gradient = weight_gradient;
    tail.partials = partials.as<float>();
    tail.sums = sums.as<double>();
    fastass::parallel_for(threads, chunks, chunk_task, &tail);

    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const double* sum = tail.sums + chunk * (2 + padded);
        losses[0] += sum[0];
        losses[1] += sum[1];
        if (!weight_gradient) continue;
        const float* partial = tail.partials + chunk * (padded + 1) * width;
        for (int64_t i = 0; i < outputs * width; ++i) gradient_weight2[i] += partial[i];
        for (int64_t m = 0; m < width; ++m) gradient_bias1[m] += partial[padded * width + m];
        for (int j = 0; j < outputs; ++j) gradient_bias2[j] += float(sum[2 + j]);
    }
    return kOk;
}
