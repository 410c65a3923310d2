// Canonical Huffman codes of limited length, the table given by one length per symbol.
#pragma once
#include <cstddef>
namespace tersor {}
