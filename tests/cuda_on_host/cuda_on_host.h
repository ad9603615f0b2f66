// Lets CUDA kernels run on the CPU, for tests: include this instead of CUDA's headers, compile as C++17, link with
// block.cpp and fiber.cpp (build.py does), and launch with cuda_on_host::launch.
//
// A block's threads are fibers that switch to each other where they wait: at barriers, votes and shuffles. Blocks run
// one after the other. What CUDA leaves undefined is an error: a launch throws cuda_on_host::Error that says which
// thread did what where.
//
// Limits:
// - Threads only switch where they wait, so a loop that waits for another thread's write never ends.
// - Shared memory is a function's static variable: zero at first, then what the block before left. Neither its size
//   nor the number of registers is limited. There is no dynamic shared memory.
// - Reads and writes out of bounds, misaligned ones and races are left to the sanitizers.
// - Arithmetic is the host's: fused multiply-adds and the last bits of exp2f and its kind differ from a device's.
// - There is no __noinline__, because libstdc++ uses that name for an attribute.
#pragma once

#include <tuple>

#include "block.h"
#include "host_api.h"
#include "intrinsics.h"
#include "vector_types.h"
#include "warp.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

namespace cuda_on_host {

// kernel<<<grid, block, 0, stream>>>(arguments...): arguments become the kernel's parameter types once, and each
// thread gets copies. Returns when all blocks have ended; throws Error.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t, const Arguments &...arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;
  } call = {kernel, std::tuple<Parameters...>(arguments...)};
  run_grid(
      grid, block, [](void *context) { std::apply(((Call *)context)->kernel, ((Call *)context)->parameters); }, &call);
}

} // namespace cuda_on_host
