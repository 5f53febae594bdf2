// What the library tells about itself and the machine, and the allocator's setting.
#include <cstdint>
#include <cstdlib>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

// Raised with every new routine or argument; native.py refuses a library of another number.
EXPORT int fastass_abi() { return 6; }

// The best instruction set that this processor has: 0 base, 1 avx2, 2 avx512.
EXPORT int fastass_best_isa() {
#if defined(FASTASS_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx2 ? (avx512 ? 2 : 1) : 0;
#else
    return 0;
#endif
}

// Whether malloc keeps and reuses large blocks (1), or maps each from 1 MiB on anew and unmaps it when freed (0), so
// that every large tensor pays a page fault for each 4 KiB it touches. (Raising M_MMAP_THRESHOLD does not do for the
// first: glibc refuses values above 32 MiB.) Returns 1 if the settings were taken, 0 where malloc is not glibc's.
EXPORT int fastass_tune_allocator(int reuse) {
#if defined(__GLIBC__)
    if (reuse) return mallopt(M_MMAP_MAX, 0) == 1 && mallopt(M_TRIM_THRESHOLD, -1) == 1;
    return mallopt(M_MMAP_MAX, 65536) == 1 && mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1;
#else
    (void)reuse;
    return 0;
#endif
}
