// Packed codes: any bytes are refused, or are what their codes pack to.
#include <vector>

#include "bits.hpp"
#include "errors.hpp"
#include "input.hpp"

using namespace tersor;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    const unsigned width = static_cast<unsigned>(input.number(1) % 20);
    std::vector<std::uint16_t> codes(input.up_to(4096));
    const auto stream = input.rest();
    try {
        unpack(stream, width, fuzz::span(codes));
    } catch (const FormatError&) {
        return 0;
    }
    std::vector<std::uint8_t> again(packed_bytes(codes.size(), width));
    pack(fuzz::view(codes), width, fuzz::span(again));
    fuzz::require(again == std::vector<std::uint8_t>(stream.begin(), stream.end()),
                  "codes pack to other bytes");
    return 0;
}
