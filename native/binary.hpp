// Adaptive binary range coding: one bit at a time, its probability mixed from several counters.
//
// All arithmetic is in integers, so every machine decodes the same. Counters, mixed in the logistic
// domain by weights that learn, follow Mahoney 2005, "Adaptive weighing of context models for
// lossless data compression", Florida Tech CS-2005-16; constants and contexts are our own.
// docs/format.md says every operation. Inline, since a coder does little else.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "span.hpp"

namespace tersor {

constexpr int kStretched = 2047;  // stretched probabilities are from -2047 to 2047, in 2^-8

struct Curves {
    std::array<std::uint16_t, 4096> squash;  // of x + 2048: 65536 / (1 + exp(-x / 256)), by lines
    std::array<std::int16_t, 4096> stretch;  // of a probability in 2^-12: its inverse
    std::array<std::uint32_t, 1024> rate;    // of a counter that has seen n: 131072 / (2 n + 3)
};
extern const Curves kCurves;

// A probability of a 1, in 2^-22 (the high 22 bits), and how often it has moved (the low 10).
// It moves by 1 / (n + 1.5) of the way: the mean of what was seen, and later a running one.
struct Counter {
    std::uint32_t state = 1u << 31;

    static Counter of(std::uint32_t probability22, std::uint32_t seen) {
        return {probability22 << 10 | seen};
    }
    std::uint32_t probability22() const { return state >> 10; }
    int stretched() const { return kCurves.stretch[state >> 20]; }
    void update(unsigned bit) {
        const std::uint32_t n = state & 1023;
        const auto p = static_cast<std::int64_t>(state >> 10);
        const std::int64_t target = bit != 0 ? (1 << 22) - 1 : 0;
        const std::int64_t moved = p + ((target - p) * kCurves.rate[n] >> 16);
        state = static_cast<std::uint32_t>(moved) << 10 | (n < 1023 ? n + 1 : n);
    }
};

// Mixes the stretched probabilities of six counters.
class Mixer {
public:
    static constexpr std::size_t kInputs = 6;
    Mixer() { weights_.fill(11000); }

    // The probability of a 1, in 2^-16.
    unsigned mix(const std::array<Counter*, kInputs>& counters) {
        counters_ = counters;
        std::int64_t sum = 0;
        for (std::size_t i = 0; i < kInputs; ++i) {
            inputs_[i] = counters[i]->stretched();
            sum += std::int64_t{weights_[i]} * inputs_[i];
        }
        const auto x = std::clamp<std::int64_t>(sum >> 16, -kStretched, kStretched);
        return probability_ = kCurves.squash[static_cast<std::size_t>(x + 2048)];
    }

    void update(unsigned bit) {
        const int error = (bit != 0 ? 65536 : 0) - static_cast<int>(probability_);
        for (std::size_t i = 0; i < kInputs; ++i) {
            const int moved = weights_[i] + ((inputs_[i] * error * rate_ + (1 << 19)) >> 20);
            weights_[i] = std::clamp(moved, -(1 << 22), 1 << 22);
            counters_[i]->update(bit);
        }
        if (rate_ > 6 && ++seen_ == 256u * static_cast<unsigned>(16 - rate_)) {
            --rate_;
            seen_ = 0;
        }
    }

private:
    std::array<int, kInputs> weights_;  // in 2^-16
    std::array<int, kInputs> inputs_{};
    std::array<Counter*, kInputs> counters_{};
    int rate_ = 15;  // falls as the weights settle; at most 15, so that no product overflows
    unsigned seen_ = 0;
    unsigned probability_ = 32768;
};

class BinaryEncoder {
public:
    unsigned code(unsigned bit, unsigned probability) {
        const std::uint32_t middle =
            low_ + static_cast<std::uint32_t>(std::uint64_t{high_ - low_} * probability >> 16);
        if (bit != 0)
            high_ = middle;
        else
            low_ = middle + 1;
        for (; (low_ ^ high_) < (1u << 24); low_ <<= 8, high_ = high_ << 8 | 0xFF)
            out_.push_back(static_cast<std::uint8_t>(high_ >> 24));
        return bit;
    }

    // The fewest bytes that lie in the interval when zeros follow them.
    std::vector<std::uint8_t> finish() {
        if (low_ > 0) out_.push_back(static_cast<std::uint8_t>((low_ >> 24) + 1));
        while (!out_.empty() && out_.back() == 0) out_.pop_back();
        return std::move(out_);
    }

private:
    std::uint32_t low_ = 0, high_ = 0xFFFFFFFFu;
    std::vector<std::uint8_t> out_;
};

// Past its end the stream reads as zeros: the encoder leaves them away.
class BinaryDecoder {
public:
    explicit BinaryDecoder(Span<const std::uint8_t> in) : in_(in) {
        if (in.size > 0 && in[in.size - 1] == 0) throw FormatError("a context stream ends in zero");
        for (int i = 0; i < 4; ++i) value_ = value_ << 8 | next();
    }

    unsigned code(unsigned, unsigned probability) {
        const std::uint32_t middle =
            low_ + static_cast<std::uint32_t>(std::uint64_t{high_ - low_} * probability >> 16);
        const unsigned bit = value_ <= middle;
        if (bit != 0)
            high_ = middle;
        else
            low_ = middle + 1;
        for (; (low_ ^ high_) < (1u << 24); low_ <<= 8, high_ = high_ << 8 | 0xFF)
            value_ = value_ << 8 | next();
        return bit;
    }

    void finish() const {
        if (next_ < in_.size)
            throw FormatError("context stream of " + std::to_string(in_.size) + " bytes, but " +
                              std::to_string(next_) + " are read");
    }

private:
    std::uint32_t next() { return next_ < in_.size ? in_[next_++] : 0u; }

    std::uint32_t low_ = 0, high_ = 0xFFFFFFFFu, value_ = 0;
    Span<const std::uint8_t> in_;
    std::size_t next_ = 0;
};

}  // namespace tersor
