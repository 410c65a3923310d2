// The inner loops. Included once for each instruction set, after `width` and `isa_name` are defined
// in that set's namespace; see isa.hpp for what each does and in which order it adds.

#include "lanes.hpp"

#include "entries.hpp"
#include "dot.hpp"
#include "multiply.hpp"
#include "finishing.hpp"
#include "code_dots.hpp"
#include "integer_dots.hpp"
#include "gates.hpp"

extern const Kernels table = {isa_name, width, dot, multiply, finish, copy, finish_each, transpose, codes_dot, integers_floats, integers_planes, integers_digits, integers_multiply, lstm_gates, gru_gates};
