#include "huffman.hpp"
