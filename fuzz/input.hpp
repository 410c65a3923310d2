// Takes numbers off the front of a fuzzer's bytes, zeros when they are used up; the rest is a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "span.hpp"

namespace tersor::fuzz {

class Input {
public:
    Input(const std::uint8_t* data, std::size_t size) : next_(data), left_(size) {}

    // A number of so many bytes, low byte first.
    std::uint64_t number(unsigned bytes) {
        std::uint64_t value = 0;
        for (unsigned i = 0; i < bytes && left_ > 0; ++i, --left_)
            value |= std::uint64_t{*next_++} << (8 * i);
        return value;
    }

    // A number from 0 to `most`, of two bytes.
    std::size_t up_to(std::size_t most) {
        return static_cast<std::size_t>(number(2)) % (most + 1);
    }

    Span<const std::uint8_t> rest() const { return {next_, left_}; }

private:
    const std::uint8_t* next_;
    std::size_t left_;
};

// Ends the process, so that the fuzzer keeps the input.
inline void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "fuzz: %s\n", what);
    std::abort();
}

template <class Container>
auto view(const Container& values) {
    return Span<const typename Container::value_type>{values.data(), values.size()};
}

template <class Container>
auto span(Container& values) {
    return Span<typename Container::value_type>{values.data(), values.size()};
}

}  // namespace tersor::fuzz
