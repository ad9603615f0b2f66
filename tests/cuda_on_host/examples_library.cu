// The examples and refused kernels for ctypes. Each function returns null, or the text of the error.
#include <string>
#include <vector>

#include "examples.cuh"
#include "mistakes.cuh"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

std::string g_text; // not a static variable of a function: those are shared memory

template <typename... Parameters, typename... Arguments>
const char *run(void (*kernel)(Parameters...), dim3 grid, dim3 block, const Arguments &...arguments) {
  try {
    cuda_on_host::launch(kernel, grid, block, nullptr, arguments...);
    return nullptr;
  } catch (const cuda_on_host::Error &error) {
    g_text = error.what();
    return g_text.c_str();
  }
}

} // namespace

EXPORT int alive() { return mistakes::g_alive; }

EXPORT const char *block_sum(const int *in, int count, int *out) {
  return run(examples::block_sum<128>, (count + 127) / 128, 128, in, count, out);
}
EXPORT const char *shuffle_int(char kind, unsigned mask, const int *arguments, int width, const int *in, int *out) {
  return run(examples::shuffle<int>, 1, 32, kind, mask, arguments, width, in, out);
}
EXPORT const char *shuffle_double(char kind, unsigned mask, const int *arguments, int width, const double *in,
                                  double *out) {
  return run(examples::shuffle<double>, 1, 32, kind, mask, arguments, width, in, out);
}
EXPORT const char *votes(const int *in, int threads, int *out) { return run(examples::votes, 1, threads, in, out); }
EXPORT const char *pipeline(const unsigned *items, int count, const unsigned *scale, const unsigned *shift,
                            unsigned *out, unsigned *seen) {
  return run(examples::pipeline, 1, 32, items, count, scale, shift, out, seen);
}
EXPORT const char *coordinates(const unsigned *grid, const unsigned *block, int *out) {
  return run(examples::coordinates, dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), out);
}
EXPORT const char *atomics(int blocks, int threads, const int *in, int *ints, unsigned *unsigneds, float *floats,
                           int *tickets) {
  return run(examples::atomics, blocks, threads, in, ints, unsigneds, floats, tickets);
}
EXPORT const char *halves(int lower_steps, int upper_steps, const int *in, int *out) {
  return run(examples::halves, 1, 32, lower_steps, upper_steps, in, out);
}
EXPORT const char *two_ways(const int *in, int *out) { return run(examples::two_ways, 1, 32, in, out); }
EXPORT const char *neighbors(const int *in, int *out, int rounds) {
  return run(examples::neighbors, 1, 32, in, out, rounds);
}
EXPORT const char *reverse(int *values, int threads, int staying) {
  return run(examples::reverse, 1, threads, values, staying);
}
EXPORT const char *bits(const int *in, int count, int *out) {
  return run(examples::bits, (count + 63) / 64, 64, in, count, out);
}

EXPORT const char *refused(int mistake) { return run(mistakes::refused, 2, 64, mistake); }
EXPORT const char *reverse_without_barrier(float *values) { return run(mistakes::reverse<false>, 1, 64, values); }
EXPORT const char *barrier_outside_of_kernel() {
  try {
    __syncthreads();
    return nullptr;
  } catch (const cuda_on_host::Error &error) {
    g_text = error.what();
    return g_text.c_str();
  }
}
