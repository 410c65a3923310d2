// The loops of isa.hpp for avx2.
#include "isa.hpp"
#include "threads.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tersor::avx2 {

constexpr int width = 8;
constexpr const char* isa_name = "avx2";

#include "loops.hpp"

}  // namespace tersor::avx2
