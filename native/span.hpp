// A pointer and a size: the view of memory that every coder takes (C++17 has none).
#pragma once

#include <cstddef>

namespace tersor {

template <class T>
struct Span {
    T* data;
    std::size_t size;

    T* begin() const { return data; }
    T* end() const { return data + size; }
    T& operator[](std::size_t i) const { return data[i]; }  // i < size is the caller's invariant
};

}  // namespace tersor
