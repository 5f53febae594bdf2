// Batch normalisation in training mode, with the residual sum and the ReLU that follow it, forward and backward:
// kernels/convolution/batch_norm.py has the contract.
//
// A channels-last map is a matrix of pixels × channels. Each direction is two passes over it, one for the sums and
// one for the result, and one parallel loop: the first half of its tasks sum a strip of pixels each, whoever ends the
// last of them joins the sums in order, and the second half waits for that. Tasks are handed out in order, so a
// task that waits only waits for tasks that run.
#include <math.h>
#include <sched.h>

#include "routine.h"

namespace {

constexpr int64_t kBlock = 64;      // pixels whose sums are taken in float, then added in double
constexpr int64_t kStrips = 32;     // at most
constexpr int64_t kSamples = 16;    // pixels whose mean is taken off before squaring

struct Strips {
    int64_t pixels, length, count;
    int64_t summed;  // strips so far
    int ready;       // the sums are joined

    explicit Strips(int64_t all) : pixels(all), summed(0), ready(0) {
        length = ((all + kStrips - 1) / kStrips + kBlock - 1) / kBlock * kBlock;
        count = (all + length - 1) / length;
    }
    int64_t begin(int64_t strip) const { return strip * length; }
    int64_t end(int64_t strip) const { return begin(strip) + length < pixels ? begin(strip) + length : pixels; }

    // True for whoever ended the last strip; it joins the sums, then calls `release`.
    bool last() { return __atomic_add_fetch(&summed, 1, __ATOMIC_ACQ_REL) == count; }
    void release() { __atomic_store_n(&ready, 1, __ATOMIC_RELEASE); }
    void wait() {
        while (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE)) sched_yield();
    }
};

template <typename V>
inline V get(const float* from) {
    V value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}
template <typename V>
inline void put(float* to, V value) { __builtin_memcpy(to, &value, sizeof value); }

// The sums of one strip: double [2][channels].
template <typename V>
inline void add(double* to, V sum) {
    float lanes[sizeof(V) / sizeof(float)];
    __builtin_memcpy(lanes, &sum, sizeof sum);
    for (size_t lane = 0; lane < sizeof(V) / sizeof(float); ++lane) to[lane] += lanes[lane];
}

// step<V>(c) for all channels: a vector of them at a time, the last few one by one.
template <typename Step>
inline void every_channel(int channels, const Step& step) {
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) step(c, Vf{});
    for (; c < channels; ++c) step(c, float{});
}

// Both sums of a channel over all strips, in their order.
template <typename Job>
inline void joined(const Job& job, int c, double& first, double& second) {
    first = second = 0;
    for (int64_t strip = 0; strip < job.strips.count; ++strip) {
        const double* sums = job.sums + 2 * strip * job.channels;
        first += sums[c], second += sums[job.channels + c];
    }
}

struct Forward {
    const float *x, *residual, *weight, *bias;
    float *y, *mean, *inverse, *running_mean, *running_variance;
    float *shift, *scale, *offset;  // [channels]
    double* sums;                   // [strips][2][channels]
    int channels;
    bool relu;
    double momentum, eps;
    Strips strips;
};

template <typename V>
inline void sum_forward(const Forward& job, int64_t begin, int64_t end, int c, double* sums) {
    const int channels = job.channels;
    const float* x = job.x + begin * channels + c;
    const V shift = get<V>(job.shift + c);
    V total[4] = {}, square[4] = {};
    int64_t left = end - begin;
    for (; left >= 4; left -= 4, x += 4 * channels)
        for (int i = 0; i < 4; ++i) {
            const V value = get<V>(x + i * channels) - shift;
            total[i] += value;
            square[i] += value * value;
        }
    for (; left > 0; --left, x += channels) {
        const V value = get<V>(x) - shift;
        total[0] += value;
        square[0] += value * value;
    }
    add(sums + c, (total[0] + total[1]) + (total[2] + total[3]));
    add(sums + channels + c, (square[0] + square[1]) + (square[2] + square[3]));
}

void join(const Forward& job) {
    const double count = static_cast<double>(job.strips.pixels);
    for (int c = 0; c < job.channels; ++c) {
        double total, square;
        joined(job, c, total, square);
        const double offset = total / count, mean = job.shift[c] + offset;
        double variance = square / count - offset * offset;
        variance = variance > 0 ? variance : variance == variance ? 0 : variance;
        const double inverse = 1 / sqrt(variance + job.eps), scale = inverse * job.weight[c];
        job.mean[c] = static_cast<float>(mean), job.inverse[c] = static_cast<float>(inverse);
        job.scale[c] = static_cast<float>(scale);
        job.offset[c] = static_cast<float>(job.bias[c] - mean * scale);
        const double keep = 1 - job.momentum, unbiased = variance * count / (count - 1);
        job.running_mean[c] = static_cast<float>(keep * job.running_mean[c] + job.momentum * mean);
        job.running_variance[c] = static_cast<float>(keep * job.running_variance[c] + job.momentum * unbiased);
    }
}

// The first half of a direction's tasks: the sums of one strip, in blocks; the last to end joins them all.
template <typename Job, typename Sum>
inline void sum_strip(Job& job, int64_t index, const Sum& sum) {
    const int channels = job.channels;
    double* sums = job.sums + 2 * index * channels;
    std::memset(sums, 0, 2 * sizeof(double) * channels);
    const int64_t end = job.strips.end(index);
    for (int64_t from = job.strips.begin(index); from < end; from += kBlock) {
        const int64_t to = from + kBlock < end ? from + kBlock : end;
        every_channel(channels, [&](int c, auto v) { sum(from, to, c, v, sums); });
    }
    if (job.strips.last()) {
        join(job);
        job.strips.release();
    }
}

void forward_task(void* context, int64_t index, int) {
    Forward& job = *static_cast<Forward*>(context);
    const int channels = job.channels;
    if (index < job.strips.count) {
        sum_strip(job, index, [&](int64_t from, int64_t to, int c, auto v, double* sums) {
            sum_forward<decltype(v)>(job, from, to, c, sums);
        });
        return;
    }
    job.strips.wait();
    index -= job.strips.count;
    for (int64_t pixel = job.strips.begin(index); pixel < job.strips.end(index); ++pixel) {
        const int64_t at = pixel * channels;
        every_channel(channels, [&](int c, auto v) {
            using V = decltype(v);
            V value = get<V>(job.x + at + c) * get<V>(job.scale + c) + get<V>(job.offset + c);
            if (job.residual) value += get<V>(job.residual + at + c);
            // Not x > 0 ? x : 0, so that NaN stays.
            if (job.relu) value = value < V{} ? V{} : value;
            put(job.y + at + c, value);
        });
    }
}

struct Backward {
    const float *gradient, *x, *y, *mean, *inverse, *weight;
    float *of_x, *of_residual, *of_weight, *of_bias;
    float *factor, *slope, *level;  // [channels]: of_x = factor gradient - slope (x - mean) - level
    double* sums;                   // [strips][2][channels]
    int channels;
    Strips strips;
};

// The gradient before the ReLU: none where its output is 0.
template <typename V>
inline V incoming(const Backward& job, int64_t at) {
    const V gradient = get<V>(job.gradient + at);
    if (!job.y) return gradient;
    return get<V>(job.y + at) <= V{} ? V{} : gradient;
}

template <typename V>
inline void sum_backward(const Backward& job, int64_t begin, int64_t end, int c, double* sums) {
    const int channels = job.channels;
    const V mean = get<V>(job.mean + c);
    V total[2] = {}, product[2] = {};
    for (int64_t pixel = begin; pixel < end; ++pixel) {
        const int64_t at = pixel * channels + c;
        const V gradient = incoming<V>(job, at);
        if (job.of_residual) put(job.of_residual + at, gradient);
        total[pixel & 1] += gradient;
        product[pixel & 1] += gradient * (get<V>(job.x + at) - mean);
    }
    add(sums + c, total[0] + total[1]);
    add(sums + channels + c, product[0] + product[1]);
}

void join(const Backward& job) {
    const double count = static_cast<double>(job.strips.pixels);
    for (int c = 0; c < job.channels; ++c) {
        double total, product;
        joined(job, c, total, product);
        const double inverse = job.inverse[c], factor = inverse * job.weight[c];
        job.of_weight[c] = static_cast<float>(product * inverse);
        job.of_bias[c] = static_cast<float>(total);
        job.factor[c] = static_cast<float>(factor);
        job.slope[c] = static_cast<float>(factor * inverse * inverse * product / count);
        job.level[c] = static_cast<float>(factor * total / count);
    }
}

void backward_task(void* context, int64_t index, int) {
    Backward& job = *static_cast<Backward*>(context);
    const int channels = job.channels;
    if (index < job.strips.count) {
        sum_strip(job, index, [&](int64_t from, int64_t to, int c, auto v, double* sums) {
            sum_backward<decltype(v)>(job, from, to, c, sums);
        });
        return;
    }
    job.strips.wait();
    index -= job.strips.count;
    for (int64_t pixel = job.strips.begin(index); pixel < job.strips.end(index); ++pixel) {
        const int64_t row = pixel * channels;
        every_channel(channels, [&](int c, auto v) {
            using V = decltype(v);
            const int64_t at = row + c;
            const V gradient = job.of_residual ? get<V>(job.of_residual + at) : incoming<V>(job, at);
            put(job.of_x + at, get<V>(job.factor + c) * gradient -
                                   get<V>(job.slope + c) * (get<V>(job.x + at) - get<V>(job.mean + c)) -
                                   get<V>(job.level + c));
        });
    }
}

// Scratch: the strips' sums, then three vectors of a float a channel.
size_t scratch_bytes(const Strips& strips, int channels) {
    return (2 * strips.count * sizeof(double) + 3 * sizeof(float)) * channels;
}

}  // namespace

// x, y and residual (may be null): float [pixels][channels]. weight, bias, mean and inverse (1 / standard deviation),
// which are written, and the running statistics, which are updated: float [channels].
FASTASS_ROUTINE(batch_norm_forward)
(const float* x, const float* residual, const float* weight, const float* bias, float* y, float* mean, float* inverse,
 float* running_mean, float* running_variance, int64_t pixels, int channels, int relu, double momentum, double eps,
 int threads) {
    if (pixels < 2 || channels < 1) return kBadArgument;
    Strips strips(pixels);
    Scratch memory(scratch_bytes(strips, channels));
    if (!memory.memory) return kNoMemory;
    double* sums = memory.as<double>();
    float* vectors = reinterpret_cast<float*>(sums + 2 * strips.count * channels);
    Forward job = {x, residual, weight, bias, y, mean, inverse, running_mean, running_variance, vectors,
                   vectors + channels, vectors + 2 * channels, sums, channels, relu != 0, momentum, eps, strips};
    // The mean of a few pixels is near enough to that of all for the squares not to cancel.
    const int64_t samples = pixels < kSamples ? pixels : kSamples;
    for (int c = 0; c < channels; ++c) {
        float total = 0;
        for (int64_t i = 0; i < samples; ++i) total += x[i * (pixels / samples) * channels + c];
        job.shift[c] = total / static_cast<float>(samples);
    }
    fastass::parallel_for(threads, 2 * strips.count, forward_task, &job);
    return kOk;
}

// gradient, x, of_x: float [pixels][channels]; so are y, null where no ReLU followed, and of_residual, null where it
// is not wanted. of_weight and of_bias: float [channels].
FASTASS_ROUTINE(batch_norm_backward)
(const float* gradient, const float* x, const float* y, const float* mean, const float* inverse, const float* weight,
 float* of_x, float* of_residual, float* of_weight, float* of_bias, int64_t pixels, int channels, int threads) {
    if (pixels < 2 || channels < 1) return kBadArgument;
    Strips strips(pixels);
    Scratch memory(scratch_bytes(strips, channels));
    if (!memory.memory) return kNoMemory;
    double* sums = memory.as<double>();
    float* vectors = reinterpret_cast<float*>(sums + 2 * strips.count * channels);
    Backward job = {gradient, x, y, mean, inverse, weight, of_x, of_residual, of_weight, of_bias, vectors,
                    vectors + channels, vectors + 2 * channels, sums, channels, strips};
    fastass::parallel_for(threads, 2 * strips.count, backward_task, &job);
    return kOk;
}
