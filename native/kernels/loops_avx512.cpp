// The loops of isa.hpp for avx512.
#include "isa.hpp"
#include "threads.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tersor::avx512 {

constexpr int width = 16;
constexpr const char* isa_name = "avx512";

#include "loops.hpp"

}  // namespace tersor::avx512
