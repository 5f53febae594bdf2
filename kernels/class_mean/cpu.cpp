// Per-class channel means over the pixels of each image (Eq. 4), and their gradient.
//
// Both directions move each feature once and are bound by memory. Forward: a task owns a range of pixels of
// one image and adds each pixel to the sums of its class, which stay in the L2 cache. Sums are float over a
// strip of pixels and double beyond it, so the error is that of short sums. The ranges follow from the shape
// alone: the result depends on neither the number of threads nor their timing. Backward: a pixel's gradient
// is a row of a small table (gradient / count for each class, zeros for ignored pixels).
#include "nearest.h"

namespace {

constexpr int64_t kStrip = 512;  // pixels summed in float before they are added to the double sums
constexpr int64_t kTasks = 16;   // pixel ranges that a batch is split into, at least, where it is large enough
constexpr int64_t kTile = 32;    // channels transposed at a time where channels come first
constexpr int64_t kRun = 4;      // pixels of one class that are added up before they join its sum

struct Float32 {
    typedef float Type;
    static float one(Type value) { return value; }
    static Type from(float value) { return value; }
    static Vf many(const Type* p) { return load(p); }
};

struct BFloat16 {
    typedef uint16_t Type;
    static float one(Type value) { return float_of_bfloat16(value); }
    static Type from(float value) { return bfloat16_of_float(value); }
    static Vf many(const Type* p) {
        typedef uint16_t Half __attribute__((vector_size(2 * FASTASS_LANES)));
        Half bits;
        __builtin_memcpy(&bits, p, sizeof bits);
        const Vu wide = __builtin_convertvector(bits, Vu) << 16;
        Vf value;
        __builtin_memcpy(&value, &wide, sizeof value);
        return value;
    }
};

struct Float16 {
    typedef uint16_t Type;
    static float one(Type value) { return float_of_float16(value); }
    static Type from(float value) { return float16_of_float(value); }
    static Vf many(const Type* p) {
#if defined(__AVX512F__)
        return (Vf)_mm512_maskz_cvtph_ps(__mmask16(-1), _mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
        return (Vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
        Vf value;
        for (int lane = 0; lane < kLanes; ++lane) value[lane] = one(p[lane]);
        return value;
#endif
    }
};

struct Problem {
    const void* features;   // forward
    const float* gradient;  // backward: [B, C, N], already divided by the counts
    void* out;              // forward: float means [B, C, N]; backward: [B, h·w, N] or [B, N, h·w]
    const uint8_t* classes;  // [B, h·w]
    const int64_t* counts;   // [B, C]
    int64_t batch, channels, pixels;
    int num_classes;
    bool channels_last;
    int64_t parts;          // forward: pixel ranges of an image
    float* partials;        // forward: sums [B, parts, C, N], written where present [B, parts, 256]
    bool* present;
    char* scratch;          // forward: one worker's sums; backward: the table
    int64_t scratch_stride;
};

// sums[class][·] += pixel, for `count` pixels of `width` channels.
template <typename E>
void add_pixels(const typename E::Type* from, int64_t stride, int64_t width, const uint8_t* classes,
                int64_t count, float* sums, int64_t sums_stride) {
    for (int64_t p = 0; p < count;) {
        const uint8_t c = classes[p];
        if (c == kIgnored) {
            ++p;
            continue;
        }
        const typename E::Type* pixel = from + p * stride;
        float* sum = sums + c * sums_stride;
        int64_t n = 0;
        if (p + kRun <= count && classes[p + 1] == c && classes[p + 2] == c && classes[p + 3] == c) {
            const typename E::Type *second = pixel + stride, *third = second + stride, *fourth = third + stride;
            for (; n + kLanes <= width; n += kLanes)
                store(sum + n, load(sum + n) + ((E::many(pixel + n) + E::many(second + n)) +
                                                (E::many(third + n) + E::many(fourth + n))));
            for (; n < width; ++n)
                sum[n] += (E::one(pixel[n]) + E::one(second[n])) + (E::one(third[n]) + E::one(fourth[n]));
            p += kRun;
        } else {
            for (; n + kLanes <= width; n += kLanes) store(sum + n, load(sum + n) + E::many(pixel + n));
            for (; n < width; ++n) sum[n] += E::one(pixel[n]);
            ++p;
        }
    }
}

template <typename E>
void forward_range(void* context, int64_t index, int worker) {
    const Problem& problem = *static_cast<const Problem*>(context);
    const int64_t image = index / problem.parts, part = index % problem.parts;
    const int64_t channels = problem.channels, pixels = problem.pixels;
    const int64_t sums_size = problem.num_classes * channels;
    const int64_t strips = (pixels + kStrip - 1) / kStrip;
    const int64_t first = strips * part / problem.parts * kStrip;
    int64_t last = strips * (part + 1) / problem.parts * kStrip;
    if (last > pixels) last = pixels;
    const auto* features = static_cast<const typename E::Type*>(problem.features) + image * channels * pixels;
    const uint8_t* classes = problem.classes + image * pixels;

    // Both sums are zero between tasks.
    double* total = reinterpret_cast<double*>(problem.scratch + worker * problem.scratch_stride);
    float* sums = reinterpret_cast<float*>(total + sums_size);
    auto* tile = reinterpret_cast<typename E::Type*>(sums + sums_size);
    bool* present = problem.present + index * 256;

    for (int64_t start = first; start < last; start += kStrip) {
        const int64_t count = last - start < kStrip ? last - start : kStrip;
        if (problem.channels_last) {
            add_pixels<E>(features + start * channels, channels, channels, classes + start, count, sums, channels);
        } else {
            for (int64_t n = 0; n < channels; n += kTile) {
                const int64_t width = channels - n < kTile ? channels - n : kTile;
                for (int64_t i = 0; i < width; ++i) {
                    const typename E::Type* plane = features + (n + i) * pixels + start;
                    for (int64_t p = 0; p < count; ++p) tile[p * kTile + i] = plane[p];
                }
                add_pixels<E>(tile, kTile, width, classes + start, count, sums + n, channels);
            }
        }
        bool touched[256] = {};
        for (int64_t p = 0; p < count; ++p) touched[classes[start + p]] = true;
        for (int c = 0; c < problem.num_classes; ++c) {
            if (!touched[c]) continue;
            present[c] = true;
            float* __restrict sum = sums + c * channels;
            double* __restrict all = total + c * channels;
            for (int64_t n = 0; n < channels; ++n) {
                all[n] += sum[n];
                sum[n] = 0;
            }
        }
    }
    for (int c = 0; c < problem.num_classes; ++c) {
        if (!present[c]) continue;
        double* __restrict all = total + c * channels;
        float* __restrict partial = problem.partials + index * sums_size + c * channels;
        for (int64_t n = 0; n < channels; ++n) {
            partial[n] = float(all[n]);
            all[n] = 0;
        }
    }
}

// One class of one image: the sum over its parts, divided by the count.
void forward_mean(void* context, int64_t index, int) {
    const Problem& problem = *static_cast<const Problem*>(context);
    const int64_t image = index / problem.num_classes, c = index % problem.num_classes;
    const int64_t channels = problem.channels, count = problem.counts[index];
    const double scale = count ? 1.0 / double(count) : 0.0;
    float* means = static_cast<float*>(problem.out) + index * channels;
    constexpr int64_t kBlock = 512;
    for (int64_t start = 0; start < channels; start += kBlock) {
        const int64_t width = channels - start < kBlock ? channels - start : kBlock;
        double sum[kBlock] = {};
        for (int64_t part = image * problem.parts; part < (image + 1) * problem.parts; ++part) {
            if (!problem.present[part * 256 + c]) continue;
            const float* partial = problem.partials + (part * problem.num_classes + c) * channels + start;
            for (int64_t n = 0; n < width; ++n) sum[n] += partial[n];
        }
        for (int64_t n = 0; n < width; ++n) means[start + n] = float(sum[n] * scale);
    }
}

// Copies `bytes` past the caches where rows are aligned for it: the gradient is far larger than they are.
inline void stream(void* to, const void* from, int64_t bytes) {
#if defined(__AVX512F__)
    if (((reinterpret_cast<uintptr_t>(to) | bytes) & 63) == 0) {
        for (int64_t b = 0; b < bytes; b += 64)
            _mm512_stream_si512((__m512i*)(static_cast<char*>(to) + b),
                                _mm512_loadu_si512(static_cast<const char*>(from) + b));
        return;
    }
#elif defined(__AVX2__)
    if (((reinterpret_cast<uintptr_t>(to) | bytes) & 31) == 0) {
        for (int64_t b = 0; b < bytes; b += 32)
            _mm256_stream_si256((__m256i*)(static_cast<char*>(to) + b),
                                _mm256_loadu_si256((const __m256i*)(static_cast<const char*>(from) + b)));
        return;
    }
#endif
    std::memcpy(to, from, bytes);
}

// Channels last: a task is a strip of pixels; `gradient` is the table [B, C + 1, N] in the output's type.
template <typename E>
void backward_pixels(void* context, int64_t index, int) {
    const Problem& problem = *static_cast<const Problem*>(context);
    const int64_t strips = (problem.pixels + kStrip - 1) / kStrip;
    const int64_t image = index / strips, start = index % strips * kStrip;
    const int64_t end = start + kStrip < problem.pixels ? start + kStrip : problem.pixels;
    const int64_t channels = problem.channels;
    const auto* table = reinterpret_cast<const typename E::Type*>(problem.scratch) +
                        image * (problem.num_classes + 1) * channels;
    auto* out = static_cast<typename E::Type*>(problem.out) + image * problem.pixels * channels;
    for (int64_t p = start; p < end; ++p) {
        const uint8_t c = problem.classes[image * problem.pixels + p];
        const int64_t row = c == kIgnored ? problem.num_classes : c;
        stream(out + p * channels, table + row * channels, channels * sizeof(typename E::Type));
    }
#if defined(__AVX2__)
    _mm_sfence();
#endif
}

// Channels first: a task is one channel plane of one image.
template <typename E>
void backward_plane(void* context, int64_t index, int) {
    const Problem& problem = *static_cast<const Problem*>(context);
    const int64_t image = index / problem.channels, channel = index % problem.channels;
    typename E::Type value[256] = {};
    for (int c = 0; c < problem.num_classes; ++c) {
        const int64_t row = image * (problem.num_classes + 1) + c;
        value[c] = reinterpret_cast<const typename E::Type*>(problem.scratch)[row * problem.channels + channel];
    }
    auto* out = static_cast<typename E::Type*>(problem.out) + index * problem.pixels;
    const uint8_t* classes = problem.classes + image * problem.pixels;
    for (int64_t p = 0; p < problem.pixels; ++p) out[p] = value[classes[p]];
}

template <typename E>
void backward(Problem& problem, int threads) {
    auto* table = reinterpret_cast<typename E::Type*>(problem.scratch);
    for (int64_t image = 0; image < problem.batch; ++image) {
        for (int c = 0; c < problem.num_classes; ++c) {
            const int64_t row = image * problem.num_classes + c;
            const float count = problem.counts[row] ? float(problem.counts[row]) : 1.0f;
            const float* gradient = problem.gradient + row * problem.channels;
            for (int64_t n = 0; n < problem.channels; ++n) *table++ = E::from(gradient[n] / count);
        }
        std::memset(table, 0, problem.channels * sizeof(typename E::Type));
        table += problem.channels;
    }
    if (problem.channels_last) {
        const int64_t strips = (problem.pixels + kStrip - 1) / kStrip;
        fastass::parallel_for(threads, problem.batch * strips, backward_pixels<E>, &problem);
    } else {
        fastass::parallel_for(threads, problem.batch * problem.channels, backward_plane<E>, &problem);
    }
}

// Fills classes [B, h·w] and counts [B, C]; kBadLabel at a label that is no class.
Status classify(const uint8_t* labels, const int32_t* rows, const int32_t* cols, int64_t batch, int64_t h,
                int64_t w, int64_t label_height, int64_t label_width, int num_classes, int ignore,
                uint8_t* classes, int64_t* counts) {
    for (int64_t image = 0; image < batch; ++image) {
        uint8_t* map = classes + image * h * w;
        if (!nearest_classes(labels + image * label_height * label_width, label_width, rows, cols, h, w,
                             num_classes, ignore, map))
            return kBadLabel;
        int64_t histogram[256] = {};
        for (int64_t p = 0; p < h * w; ++p) ++histogram[map[p]];
        std::memcpy(counts + image * num_classes, histogram, sizeof(int64_t) * num_classes);
    }
    return kOk;
}

}  // namespace

// features [B, h·w, N] (channels_last) or [B, N, h·w]; labels [B, H, W]; rows [h], cols [w] index H and W.
// Writes means [B, C, N] and counts [B, C].
FASTASS_ROUTINE(class_mean)
(const void* features, int element, int channels_last, const uint8_t* labels, const int32_t* rows,
 const int32_t* cols, int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t label_height,
 int64_t label_width, int num_classes, int ignore, float* means, int64_t* counts, int threads) {
    Scratch classes(batch * h * w);
    if (!classes.memory) return kNoMemory;
    const Status status = classify(labels, rows, cols, batch, h, w, label_height, label_width, num_classes,
                                   ignore, classes.as<uint8_t>(), counts);
    if (status != kOk) return status;

    const int64_t strips = (h * w + kStrip - 1) / kStrip, wanted = (kTasks + batch - 1) / batch;
    const int64_t parts = wanted < strips ? wanted : strips, sums = num_classes * channels;
    const int64_t stride = (12 * sums + 4 * kTile * kStrip + 63) / 64 * 64;
    Scratch scratch(stride * threads), partials(4 * batch * parts * sums), present(batch * parts * 256);
    if (!scratch.memory || !partials.memory || !present.memory) return kNoMemory;
    std::memset(scratch.memory, 0, stride * threads);
    std::memset(present.memory, 0, batch * parts * 256);
    Problem problem{};
    problem.features = features;
    problem.out = means;
    problem.classes = classes.as<uint8_t>();
    problem.counts = counts;
    problem.batch = batch;
    problem.channels = channels;
    problem.pixels = h * w;
    problem.num_classes = num_classes;
    problem.channels_last = channels_last;
    problem.parts = parts;
    problem.partials = partials.as<float>();
    problem.present = present.as<bool>();
    problem.scratch = scratch.as<char>();
    problem.scratch_stride = stride;
    const fastass::Task range = element == kFloat32   ? forward_range<Float32>
                                : element == kFloat16 ? forward_range<Float16>
                                                      : forward_range<BFloat16>;
    fastass::parallel_for(threads, batch * parts, range, &problem);
    fastass::parallel_for(threads, batch * num_classes, forward_mean, &problem);
    return kOk;
}

// gradient [B, C, N] of the means, counts [B, C] → out, the gradient of the features in their layout and type.
FASTASS_ROUTINE(class_mean_backward)
(const float* gradient, int64_t* counts, const uint8_t* labels, const int32_t* rows, const int32_t* cols,
 int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t label_height, int64_t label_width,
 int num_classes, int ignore, void* out, int element, int channels_last, int threads) {
    Scratch classes(batch * h * w);
    Scratch table(batch * (num_classes + 1) * channels * (element == kFloat32 ? 4 : 2));
    if (!classes.memory || !table.memory) return kNoMemory;
    for (int64_t image = 0; image < batch; ++image)
        if (!nearest_classes(labels + image * label_height * label_width, label_width, rows, cols, h, w,
                             num_classes, ignore, classes.as<uint8_t>() + image * h * w))
            return kBadLabel;
    Problem problem{};
    problem.gradient = gradient;
    problem.out = out;
    problem.classes = classes.as<uint8_t>();
    problem.counts = counts;
    problem.batch = batch;
    problem.channels = channels;
    problem.pixels = h * w;
    problem.num_classes = num_classes;
    problem.channels_last = channels_last;
    problem.scratch = table.as<char>();
    if (element == kFloat32) {
        backward<Float32>(problem, threads);
    } else if (element == kFloat16) {
        backward<Float16>(problem, threads);
    } else {
        backward<BFloat16>(problem, threads);
    }
    return kOk;
}
