// The parallel loop: threads live for one call. Starting one costs some 20 µs where a routine takes
// milliseconds, and without a pool there is nothing that a fork could leave behind (a child of a process
// that used OpenMP hangs in its first parallel region) and nothing to size, share or shut down.
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace fastass {

using Task = void (*)(void* context, int64_t index, int worker);

void parallel_for(int threads, int64_t tasks, Task task, void* context) {
    std::atomic<int64_t> next{0};
    const auto work = [&](int worker) {
        for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
            task(context, index, worker);
    };
    std::vector<std::thread> others;
    for (int worker = 1; worker < threads && worker < tasks; ++worker) {
        try {
            others.emplace_back(work, worker);
        } catch (const std::system_error&) {
            break;  // no more threads to be had (a limit of the system): those that run do the work
        }
    }
    work(0);
    for (std::thread& other : others) other.join();
}

}  // namespace fastass
