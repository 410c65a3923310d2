#include "threads.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

namespace tersor {
namespace {

using Fork = void (*)(void (*)(void*), void*, unsigned, unsigned);

using Number = int (*)();

// What is used of the OpenMP runtime: GCC's entry point, which LLVM's runtime has as well.
struct OpenMp {
    Fork fork = nullptr;
    Number thread_number = nullptr;

    OpenMp() {
#if defined(__unix__) || defined(__APPLE__)
        fork = reinterpret_cast<Fork>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
        thread_number = reinterpret_cast<Number>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
#endif
    }

    bool there() const { return fork != nullptr && thread_number != nullptr; }
};

const OpenMp& openmp() {
    static const OpenMp runtime;
    return runtime;
}

constexpr int most_threads = 64;

// The items in as many ranges as there are threads. A thread begins with its own, so that it finds what
// it touched in the last call in its cache; what is left of the others' it takes when it is done.
struct Team {
    struct alignas(64) Range {
        std::atomic<std::size_t> next{0};
        std::size_t end = 0;
    };

    Range ranges[most_threads];
    int threads;
    void (*work)(void*, std::size_t);
    void* context;

    Team(std::size_t items, int count, void (*f)(void*, std::size_t), void* c) : threads(count), work(f), context(c) {
        const auto parts = static_cast<std::size_t>(count);
        for (std::size_t t = 0; t < parts; ++t) {
            ranges[t].next.store(items * t / parts, std::memory_order_relaxed);
            ranges[t].end = items * (t + 1) / parts;
        }
    }

    void run(int thread) {
        for (int k = 0; k < threads; ++k) {
            Range& range = ranges[(thread + k) % threads];
            for (std::size_t i; (i = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;) work(context, i);
        }
    }

    static void run_openmp(void* self) { static_cast<Team*>(self)->run(openmp().thread_number()); }
};

struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

struct Scratch {
    std::unique_ptr<float[], Free> memory;
    std::size_t size = 0;
};

}  // namespace

void for_each_item(std::size_t items, int threads, void (*work)(void*, std::size_t), void* context) {
    if (threads > 1 && static_cast<std::size_t>(threads) > items) threads = static_cast<int>(items);
    if (threads <= 1) {
        for (std::size_t i = 0; i < items; ++i) work(context, i);
        return;
    }
    threads = threads < most_threads ? threads : most_threads;
    Team team(items, threads, work, context);
    if (openmp().there()) {
        openmp().fork(Team::run_openmp, &team, static_cast<unsigned>(threads), 0);
        return;
    }
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(&Team::run, &team, i);
    team.run(0);
    for (std::thread& other : others) other.join();
}

const char* threads_kind() { return openmp().there() ? "openmp" : "threads"; }

float* scratch(int slot, std::size_t count) {
    thread_local Scratch slots[8];
    Scratch& s = slots[slot];
    if (s.size < count) {
        s.memory.reset();
        s.size = 0;
        s.memory.reset(static_cast<float*>(::operator new[](count * sizeof(float), std::align_val_t{64})));
        s.size = count;
    }
    return s.memory.get();
}

}  // namespace tersor
