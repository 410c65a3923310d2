// What a coder throws: FormatError for bytes that break the format, std::invalid_argument for a
// caller's mistake.
#pragma once

#include <stdexcept>

namespace tersor {

class FormatError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

}  // namespace tersor
