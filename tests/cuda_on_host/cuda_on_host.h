// Lets CUDA kernels run on the CPU, for tests: include this instead of CUDA's headers, build with build.py, and launch
// with cuda_on_host::launch.
//
// A block's threads are fibers that switch to each other where they wait: at barriers, votes and shuffles. Blocks run
// one after the other. What CUDA leaves undefined is an error: a launch throws cuda_on_host::Error that says which
// thread did what where. Threads that have exited count as they do since compute capability 7.0: nobody waits for them.
//
// Reads and writes out of bounds, misaligned ones, and races are found when built with a sanitizer. For that:
// - Templates of kernels belong into an unnamed namespace. AddressSanitizer does not see the bounds of others' shared
//   memory.
// - Only barriers, __syncwarp and launches order memory accesses. Votes and shuffles do not, in CUDA either.
//
// Limits:
// - Threads only switch where they wait, so a loop that waits for another thread's write never ends.
// - Static variables of functions in .cu files are taken for shared memory, which begins as NaN and -1 in every block.
//   Its size is not limited. There is no dynamic shared memory.
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
