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

// GCC's entry point, which LLVM's runtime has as well.
Fork find_fork() {
#if defined(__unix__) || defined(__APPLE__)
    return reinterpret_cast<Fork>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
#else
    return nullptr;
#endif
}

Fork openmp() {
    static const Fork fork = find_fork();
    return fork;
}

struct Team {
    std::atomic<std::size_t> next{0};
    std::size_t items;
    void (*work)(void*, std::size_t);
    void* context;

    static void run(void* self) {
        Team& team = *static_cast<Team*>(self);
        for (std::size_t i; (i = team.next.fetch_add(1, std::memory_order_relaxed)) < team.items;)
            team.work(team.context, i);
    }
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
    Team team;
    team.items = items;
    team.work = work;
    team.context = context;
    if (const Fork fork = openmp()) {
        fork(Team::run, &team, static_cast<unsigned>(threads), 0);
        return;
    }
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(Team::run, &team);
    Team::run(&team);
    for (std::thread& other : others) other.join();
}

const char* threads_kind() { return openmp() != nullptr ? "openmp" : "threads"; }

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
