// XLA FFI handler around the search for nearest neighbors.
#include "../neighbors/nearest.h"
#include "cpu_handlers.h"
#include "operands.h"

namespace ipsm::binding {
namespace {

// Operands: points (N, 3), valid (N,), wanted (N,). Results: mean_squared (N,), neighbors (N, 3).
ffi::Error nearest(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  return translate_errors("ipsm_jax nearest neighbors", [&] {
    BatchShape shape;
    Operands in(args, shape);
    const int64_t n = in.size_of("points", 0, 2);
    if (n > INT32_MAX) throw std::invalid_argument("more points than 32-bit indices can name");
    const auto points = in.next<ffi::F32>("points", {n, 3});
    const auto valid = in.next<ffi::PRED>("valid", {n});
    const auto wanted = in.next<ffi::PRED>("wanted", {n});
    in.finish();
    Results out(rets, shape);
    const auto mean_squared = out.next<ffi::F32>("mean_squared", {n});
    const auto neighbors = out.next<ffi::S32>("neighbors", {n, kNeighbors});
    out.finish();
    XlaExecutor executor(pool);
    static_assert(sizeof(bool) == 1, "XLA's PRED is one byte");
    shape.for_each([&](const std::vector<int64_t> &i) {
      nearest_neighbors(points.at(i), reinterpret_cast<const uint8_t *>(valid.at(i)),
                        reinterpret_cast<const uint8_t *>(wanted.at(i)), n, mean_squared.at(i), neighbors.at(i),
                        executor);
    });
  });
}

} // namespace
} // namespace ipsm::binding

XLA_FFI_DEFINE_HANDLER_SYMBOL(ipsm_nearest_neighbors_cpu, ipsm::binding::nearest,
                              xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>().RemainingArgs().RemainingRets());
