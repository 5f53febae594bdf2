// What every native routine includes: the vector types of the instruction set it is compiled for, the
// export macro, status codes, element types and the parallel loop.
//
// A source file is compiled once for each instruction set. Whatever it defines must therefore be local to
// it (an anonymous namespace) or carry the set's name (FASTASS_ROUTINE): an inline function or template
// instance with external linkage would be merged by the linker, and AVX-512 code could run on any machine.
// For the same reason these files use no containers of the standard library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define FASTASS_JOIN_(name, isa) fastass_##name##_##isa
#define FASTASS_JOIN(name, isa) FASTASS_JOIN_(name, isa)
// extern "C" int fastass_<name>_<isa>: an exported routine that returns a Status.
#define FASTASS_ROUTINE(name) \
    extern "C" __attribute__((visibility("default"))) int FASTASS_JOIN(name, FASTASS_ISA)

namespace fastass {

// Runs task(context, index, worker) for every index in [0, tasks), on at most `threads` threads, the caller
// among them; worker < threads. Which thread runs which index is not defined, so a deterministic routine
// gives each index its own output. (threads.cpp)
using Task = void (*)(void* context, int64_t index, int worker);
void parallel_for(int threads, int64_t tasks, Task task, void* context);

}  // namespace fastass

namespace {

enum Status : int { kOk = 0, kNoMemory = 1, kBadLabel = 2, kBadArgument = 3 };
enum Element : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };  // native.py ELEMENTS

constexpr int kLanes = FASTASS_LANES;
typedef float Vf __attribute__((vector_size(4 * FASTASS_LANES)));
typedef int32_t Vi __attribute__((vector_size(4 * FASTASS_LANES)));
typedef uint32_t Vu __attribute__((vector_size(4 * FASTASS_LANES)));

[[maybe_unused]] inline Vf splat(float value) { return value - Vf{}; }
[[maybe_unused]] inline Vi splat_int(int32_t value) { return value - Vi{}; }

[[maybe_unused]] inline Vf load(const float* from) {  // any alignment
    Vf value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}
[[maybe_unused]] inline void store(float* to, Vf value) { __builtin_memcpy(to, &value, sizeof value); }

#if defined(__clang__)
#define FASTASS_BLEND(a, b, take)                                                                     \
    [](Vf first, Vf second, Vi which) {                                                               \
        Vf result;                                                                                    \
        for (int i = 0; i < kLanes; ++i)                                                              \
            result[i] = which[i] < kLanes ? first[which[i]] : second[which[i] - kLanes];              \
        return result;                                                                                \
    }(a, b, take)
#else
#define FASTASS_BLEND(a, b, take) __builtin_shuffle(a, b, take)
#endif

// Transposes kLanes vectors in place: in log2(kLanes) steps, each swaps the off-diagonal blocks of width D.
template <int D = kLanes / 2>
inline void transpose(Vf* rows) {
    Vi upper, lower;  // from the concatenation of a pair
    for (int j = 0; j < kLanes; ++j) {
        upper[j] = j & D ? kLanes + j - D : j;
        lower[j] = j & D ? kLanes + j : j + D;
    }
    for (int i = 0; i < kLanes; ++i) {
        if (i & D) continue;
        const Vf a = rows[i], b = rows[i + D];
        rows[i] = FASTASS_BLEND(a, b, upper);
        rows[i + D] = FASTASS_BLEND(a, b, lower);
    }
    if constexpr (D > 1) transpose<D / 2>(rows);
}

[[maybe_unused]] inline float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
[[maybe_unused]] inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

[[maybe_unused]] inline float float_of_bfloat16(uint16_t bits) {
    return float_of_bits(static_cast<uint32_t>(bits) << 16);
}
[[maybe_unused]] inline uint16_t bfloat16_of_float(float value) {  // nearest, ties to even
    const uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;  // NaN
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#if defined(__F16C__)
[[maybe_unused]] inline float float_of_float16(uint16_t bits) { return _cvtsh_ss(bits); }
[[maybe_unused]] inline uint16_t float16_of_float(float value) {
    return static_cast<uint16_t>(_cvtss_sh(value, 0));
}
#else
[[maybe_unused]] inline float float_of_float16(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    // A half's bits, moved up, are a float too small by 2^112: subnormals come out right as well.
    const float scaled = float_of_bits(magnitude << 13) * 0x1p112f;
    return float_of_bits(sign | bits_of_float(scaled));
}
[[maybe_unused]] inline uint16_t float16_of_float(float value) {  // nearest, ties to even
    const uint32_t bits = bits_of_float(value);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to infinity
    if (magnitude < 0x38800000u) {  // subnormal: let the float adder round to multiples of 2^-24
        const float rounded = float_of_bits(magnitude) + 0.5f;
        return sign | static_cast<uint16_t>(bits_of_float(rounded) - 0x3f000000u);
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u;
    return sign | static_cast<uint16_t>(rounded >> 13);
}
#endif

// Element `index` of an array of the given element type, as float.
[[maybe_unused]] inline float element(const void* base, Element type, int64_t index) {
    if (type == kFloat32) return static_cast<const float*>(base)[index];
    const uint16_t bits = static_cast<const uint16_t*>(base)[index];
    return type == kFloat16 ? float_of_float16(bits) : float_of_bfloat16(bits);
}

[[maybe_unused]] inline void set_element(void* base, Element type, int64_t index, float value) {
    if (type == kFloat32)
        static_cast<float*>(base)[index] = value;
    else
        static_cast<uint16_t*>(base)[index] =
            type == kFloat16 ? float16_of_float(value) : bfloat16_of_float(value);
}

// Scratch memory, aligned for the widest vectors; released at the end of the scope.
struct Scratch {
    explicit Scratch(size_t bytes) {
        if (posix_memalign(&memory, 64, bytes ? bytes : 64) != 0) memory = nullptr;
    }
    ~Scratch() { free(memory); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    template <typename T>
    T* as() { return static_cast<T*>(memory); }
    void* memory = nullptr;
};

}  // namespace
