// The loops of isa.hpp for AVX-512 with dot products of bytes.
#include "isa.hpp"
#include "threads.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tersor::avx512_vnni {

constexpr int width = 16;
constexpr const char* isa_name = "avx512_vnni";

#include "loops.hpp"

}  // namespace tersor::avx512_vnni
