// Sorting and summing that the CUDA toolkit's library does; the standard library does it in the tests' emulation.
#pragma once

#include "rasterizer.h"

namespace ipsm::cuda {

// out[i] = sum of in[0..i), in the output's type.
void exclusive_sum(const int32_t *in, int32_t *out, int64_t count, Scratch &scratch, cudaStream_t stream);
void exclusive_sum(const int32_t *in, int64_t *out, int64_t count, Scratch &scratch, cudaStream_t stream);

// Sorts by the lowest `bits` bits of the keys, stable.
void sort_by_key(const uint32_t *keys, uint32_t *sorted_keys, const uint32_t *values, uint32_t *sorted_values,
                 int64_t count, int bits, Scratch &scratch, cudaStream_t stream);
void sort_by_key(const uint32_t *keys, uint32_t *sorted_keys, const Pair *values, Pair *sorted_values, int64_t count,
                 int bits, Scratch &scratch, cudaStream_t stream);

} // namespace ipsm::cuda
