// Work shared among the threads of the OpenMP runtime that torch has already loaded.
//
// A second runtime would fight with torch's for the cores (its threads spin for a while after each
// region), so none is linked: the entry points are looked up in the process. Where there are none,
// plain threads are used for work that is worth starting them.
#pragma once

#include <cstddef>

namespace tersor {

// Calls `work(context, item)` once for each item below `items`, on up to `threads` threads (64 at
// most), in no stated order; so an item must write what no other item does. Does not throw; `work` must not.
void for_each_item(std::size_t items, int threads, void (*work)(void*, std::size_t), void* context);

template <class F>
void parallel(std::size_t items, int threads, F&& f) {
    for_each_item(items, threads, [](void* c, std::size_t i) { (*static_cast<F*>(c))(i); }, &f);
}

// "openmp" or "threads": what `for_each_item` shares work with.
const char* threads_kind();

// Memory of this thread that stays until the thread ends, at least `count` floats, 64-byte aligned.
// Each `slot` (0 to 7) is one buffer: asking again may move it. Throws std::bad_alloc.
float* scratch(int slot, std::size_t count);

}  // namespace tersor
