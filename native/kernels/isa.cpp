#include "isa.hpp"

#include <cstring>
#include <stdexcept>
#include <string>

namespace tersor {

#if defined(TERSOR_X86_KERNELS)
namespace avx512_vnni {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
namespace avx2 {
extern const Kernels table;
}
#endif
namespace plain {
extern const Kernels table;
}

namespace {

struct Choice {
    const Kernels* kernels[4];
    const char* names[4];
    std::size_t count = 0;

    Choice() {
#if defined(TERSOR_X86_KERNELS)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            if (__builtin_cpu_supports("avx512vnni")) add(avx512_vnni::table);
            add(avx512::table);
        }
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(avx2::table);
#endif
        add(plain::table);
    }

    void add(const Kernels& table) {
        kernels[count] = &table;
        names[count++] = table.name;
    }
};

const Choice& choice() {
    static const Choice all;
    return all;
}

const Kernels* forced = nullptr;

}  // namespace

const Kernels& kernels() { return forced != nullptr ? *forced : *choice().kernels[0]; }

const char* const* isa_names(std::size_t* count) {
    *count = choice().count;
    return choice().names;
}

void force_isa(const char* name) {
    if (*name == '\0') {
        forced = nullptr;
        return;
    }
    std::string known;
    for (std::size_t i = 0; i < choice().count; ++i) {
        if (std::strcmp(name, choice().names[i]) == 0) {
            forced = choice().kernels[i];
            return;
        }
        known += (i == 0 ? "" : ", ") + std::string(choice().names[i]);
    }
    throw std::invalid_argument("instruction set '" + std::string(name) + "', expected one of " + known);
}

}  // namespace tersor
