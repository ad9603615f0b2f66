// Bit counting, fast mathematics, atomics: what CUDA offers without any header. Only overloads that CUDA has, so that
// what compiles here compiles there. The fast functions are as exact as the C library's: results differ from a
// device's in the last bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }

template <typename T> T __ldg(const T *pointer) { return *pointer; }

namespace cuda_on_host {

template <typename To, typename From> To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

} // namespace cuda_on_host

inline int __float_as_int(float x) { return cuda_on_host::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_on_host::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return cuda_on_host::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_on_host::bit_cast<float>(x); }

inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; } // NaN becomes 0
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }

inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline long min(long a, long b) { return b < a ? b : a; }
inline long max(long a, long b) { return a < b ? b : a; }
inline long long min(long long a, long long b) { return b < a ? b : a; }
inline long long max(long long a, long long b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); } // of a NaN and a number: the number
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// Atomics return what was there before. They order nothing else, as on the device.
namespace cuda_on_host {

template <typename T, typename Change> T atomic(T *address, Change change) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  static_assert(sizeof(T) == sizeof(Bits));
  Bits *const bits = reinterpret_cast<Bits *>(address);
  Bits before = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(bits, &before, bit_cast<Bits>(change(bit_cast<T>(before))), false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return bit_cast<T>(before);
}

} // namespace cuda_on_host

#define CUDA_ON_HOST_ATOMIC(name, type, result)                                                                        \
  inline type name(type *address, type value) {                                                                        \
    return cuda_on_host::atomic(address, [value](type before) -> type { return result; });                             \
  }
CUDA_ON_HOST_ATOMIC(atomicAdd, int, (int)((unsigned)before + (unsigned)value)) // wraps
CUDA_ON_HOST_ATOMIC(atomicAdd, unsigned, before + value)
CUDA_ON_HOST_ATOMIC(atomicAdd, unsigned long long, before + value)
CUDA_ON_HOST_ATOMIC(atomicAdd, float, before + value)
CUDA_ON_HOST_ATOMIC(atomicAdd, double, before + value)
CUDA_ON_HOST_ATOMIC(atomicMin, int, value < before ? value : before)
CUDA_ON_HOST_ATOMIC(atomicMin, unsigned, value < before ? value : before)
CUDA_ON_HOST_ATOMIC(atomicMin, unsigned long long, value < before ? value : before)
CUDA_ON_HOST_ATOMIC(atomicMax, int, value > before ? value : before)
CUDA_ON_HOST_ATOMIC(atomicMax, unsigned, value > before ? value : before)
CUDA_ON_HOST_ATOMIC(atomicMax, unsigned long long, value > before ? value : before)
CUDA_ON_HOST_ATOMIC(atomicExch, int, ((void)before, value))
CUDA_ON_HOST_ATOMIC(atomicExch, unsigned, ((void)before, value))
CUDA_ON_HOST_ATOMIC(atomicExch, unsigned long long, ((void)before, value))
CUDA_ON_HOST_ATOMIC(atomicExch, float, ((void)before, value))
CUDA_ON_HOST_ATOMIC(atomicOr, int, before | value)
CUDA_ON_HOST_ATOMIC(atomicOr, unsigned, before | value)
CUDA_ON_HOST_ATOMIC(atomicAnd, int, before &value)
CUDA_ON_HOST_ATOMIC(atomicAnd, unsigned, before &value)
#undef CUDA_ON_HOST_ATOMIC

inline int atomicCAS(int *address, int expected, int desired) {
  return cuda_on_host::atomic(address, [=](int before) { return before == expected ? desired : before; });
}
inline unsigned atomicCAS(unsigned *address, unsigned expected, unsigned desired) {
  return cuda_on_host::atomic(address, [=](unsigned before) { return before == expected ? desired : before; });
}
