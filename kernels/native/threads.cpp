// The parallel loop. In a process that runs an OpenMP library, as torch does, it runs on that library's threads, which
// are awake already: a start costs 5 µs where a new thread costs 50, as much as a small routine takes. The library
// is looked up at run time, so that this one is built without it and there are never two pools. Else, and in a
// forked child, whose OpenMP threads are gone (it would wait for them for ever), threads live for one call.
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <pthread.h>
#define FASTASS_POSIX 1
#endif

namespace fastass {

using Task = void (*)(void* context, int64_t index, int worker);

namespace {

struct Loop {
    int64_t tasks;
    Task task;
    void* context;
    std::atomic<int64_t> next{0};
    std::atomic<int> workers{0};

    void work() {
        const int worker = workers.fetch_add(1, std::memory_order_relaxed);
        for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
            task(context, index, worker);
    }
};

// GCC's OpenMP runtime and LLVM's both export it: body(data) on a team of `threads`, the caller among them.
using Parallel = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

#if defined(FASTASS_POSIX)
std::atomic<bool> forked{false};
const int watching = pthread_atfork(nullptr, nullptr, [] { forked = true; });  // from when the library is loaded

Parallel openmp() {
    static const Parallel found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return forked || watching != 0 ? nullptr : found;
}
#else
Parallel openmp() { return nullptr; }
#endif

}  // namespace

void parallel_for(int threads, int64_t tasks, Task task, void* context) {
    Loop loop{tasks, task, context};
    if (threads > tasks) threads = static_cast<int>(tasks);
    if (threads <= 1) return loop.work();
    if (const Parallel parallel = openmp())
        return parallel([](void* data) { static_cast<Loop*>(data)->work(); }, &loop, threads, 0);
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) {
        try {
            others.emplace_back([&loop] { loop.work(); });
        } catch (const std::system_error&) {
            break;  // no more threads to be had (a limit of the system): those that run do the work
        }
    }
    loop.work();
    for (std::thread& other : others) other.join();
}

}  // namespace fastass
