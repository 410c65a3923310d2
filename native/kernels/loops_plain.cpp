// The loops of isa.hpp for any processor: four lanes, which compilers turn into what there is.
#include "isa.hpp"
#include "threads.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tersor::plain {

constexpr int width = 4;
constexpr const char* isa_name = "plain";

#include "loops.hpp"

}  // namespace tersor::plain
