// Small kernels that use everything the emulation offers, the right way. Their results are checked from Python, and
// all of them run under the sanitizers.
#pragma once

#include "cuda_on_host.h"

namespace examples {

constexpr unsigned kAllLanes = 0xffffffffu;

// Sum of `in` (count,) by a tree in shared memory, one atomic a block. Adds to `out` (1,).
template <int kThreads> __global__ void block_sum(const int *in, int count, int *out) {
  __shared__ int partial[kThreads];
  const int i = blockIdx.x * kThreads + threadIdx.x;
  partial[threadIdx.x] = i < count ? in[i] : 0;
  __syncthreads();
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(out, partial[0]);
}

// The lanes in `mask` shuffle `in` (32,) with their `arguments` (32,); `out` (32,) of the others stays.
template <typename T>
__global__ void shuffle(char kind, unsigned mask, const int *arguments, int width, const T *in, T *out) {
  const int lane = threadIdx.x, argument = arguments[lane];
  if ((mask >> lane & 1) == 0) return;
  if (kind == 'i') out[lane] = __shfl_sync(mask, in[lane], argument, width);
  if (kind == 'u') out[lane] = __shfl_up_sync(mask, in[lane], argument, width);
  if (kind == 'd') out[lane] = __shfl_down_sync(mask, in[lane], argument, width);
  if (kind == 'x') out[lane] = __shfl_xor_sync(mask, in[lane], argument, width);
}

// Threads with a negative `in` exit; the others vote whether theirs is positive. `out` (threads, 6): ballot, any and
// all of the warp; count, or, and of the block.
__global__ void votes(const int *in, int *out) {
  const int i = threadIdx.x;
  if (in[i] < 0) return;
  out[6 * i] = static_cast<int>(__ballot_sync(kAllLanes, in[i] > 0));
  out[6 * i + 1] = __any_sync(kAllLanes, in[i] > 0);
  out[6 * i + 2] = __all_sync(kAllLanes, in[i] > 0);
  out[6 * i + 3] = __syncthreads_count(in[i] > 0);
  out[6 * i + 4] = __syncthreads_or(in[i] > 0);
  out[6 * i + 5] = __syncthreads_and(in[i] > 0);
}

// Items stream through a warp, each lane working on the one that the lane before had a step earlier:
// item = item * scale[lane] + shift[lane], and seen[lane] is the sum of what came in.
__global__ void pipeline(const unsigned *items, int count, const unsigned *scale, const unsigned *shift, unsigned *out,
                         unsigned *seen) {
  const int lane = threadIdx.x;
  unsigned value = 0, sum = 0;
  for (int step = 0; step < count + 31; step++) {
    const int item = step - lane;
    unsigned incoming = __shfl_up_sync(kAllLanes, value, 1);
    if (item < 0 || item >= count) continue;
    if (lane == 0) incoming = items[item];
    sum += incoming;
    value = incoming * scale[lane] + shift[lane];
    if (lane == 31) out[item] = value;
  }
  seen[lane] = sum;
}

// Adds 1 + the thread's number in its block to the place in `out` that belongs to this thread of the grid.
__global__ void coordinates(int *out) {
  const int in_block = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + in_block] += 1 + in_block;
}

// One of each kind of atomic per thread. `tickets` (threads of the grid,) are what the counting returned.
__global__ void atomics(const int *in, int *ints, unsigned *unsigneds, float *floats, int *tickets) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  tickets[i] = atomicAdd(&ints[0], 1);
  atomicMin(&ints[1], in[i]);
  atomicMax(&ints[2], in[i]);
  atomicOr(&ints[3], in[i]);
  atomicAnd(&ints[4], in[i]);
  if (atomicCAS(&ints[5], 0, 1) == 0) ints[6] = i; // one thread alone gets here
  atomicAdd(&unsigneds[0], static_cast<unsigned>(in[i]));
  atomicMin(&unsigneds[1], static_cast<unsigned>(in[i]));
  atomicMax(&unsigneds[2], static_cast<unsigned>(in[i]));
  atomicAdd(&floats[0], static_cast<float>(in[i]));
  atomicExch(&floats[1], static_cast<float>(in[i]));
}

// The halves of a warp rotate their values by different numbers of steps, each on its own, and then swap.
__global__ void halves(int lower_steps, int upper_steps, const int *in, int *out) {
  const int lane = threadIdx.x;
  int value = in[lane];
  if (lane < 16)
    for (int k = 0; k < lower_steps; k++) value = __shfl_sync(0x0000ffffu, value, lane + 1, 16);
  else
    for (int k = 0; k < upper_steps; k++) value = __shfl_sync(0xffff0000u, value, lane + 1, 16);
  out[lane] = __shfl_xor_sync(kAllLanes, value, 16);
}

// Lanes that reach a shuffle on different ways exchange values all the same.
__global__ void two_ways(const int *in, int *out) {
  const int lane = threadIdx.x;
  if (lane % 2 == 0) out[lane] = __shfl_xor_sync(kAllLanes, in[lane], 1);
  else out[lane] = -__shfl_xor_sync(kAllLanes, in[lane], 1);
}

// Each lane passes its value on through shared memory. Only __syncwarp orders the accesses.
__global__ void neighbors(const int *in, int *out, int rounds) {
  __shared__ int staged[32];
  const int lane = threadIdx.x;
  int value = in[lane];
  for (int k = 0; k < rounds; k++) {
    staged[lane] = value;
    __syncwarp();
    value = staged[(lane + 1) % 32];
    __syncwarp();
  }
  out[lane] = value;
}

// Threads from `staying` on exit; the others reverse their values behind barriers that only they reach.
__global__ void reverse(int *values, int staying) {
  __shared__ int staged[1024];
  const int i = threadIdx.x;
  if (i >= staying) return;
  staged[i] = values[i];
  __syncthreads();
  values[i] = staged[staying - 1 - i];
}

// What the functions on bits return: `out` (count, 5) is popc, ffs, clz, the float with these bits as an int again, and
// the lower of the number and 7.
__global__ void bits(const int *in, int count, int *out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  out[5 * i] = __popc(static_cast<unsigned>(__ldg(in + i)));
  out[5 * i + 1] = __ffs(in[i]);
  out[5 * i + 2] = __clz(in[i]);
  out[5 * i + 3] = __float_as_int(__int_as_float(in[i]));
  out[5 * i + 4] = min(in[i], 7);
}

} // namespace examples
