// Runs the examples, or one of the mistakes, as a program for the sanitizers.   usage: examples_program [MISTAKE]
#include <cstdio>
#include <cstring>
#include <vector>

#include "examples.cuh"
#include "mistakes.cuh"

namespace {

using cuda_on_host::launch;

// Everything that must come out clean: the right kernels, and refusals in the middle of kernels.
void run_all() {
  std::vector<int> in(1024), out(6 * 1024), ints(8), arguments(32, 3);
  std::vector<unsigned> items(100, 5), scale(32, 3), shift(32, 1), streamed(100), seen(32), unsigneds(3);
  std::vector<float> floats(64);
  std::vector<double> doubles(32, 0.5), shuffled(32);
  for (int i = 0; i < 1024; i++) in[i] = i * 37 % 101;
  for (int round = 0; round < 2; round++) {
    launch(examples::block_sum<128>, 4, 128, nullptr, in.data(), 500, out.data());
    for (const char kind : {'i', 'u', 'd', 'x'})
      launch(examples::shuffle<double>, 1, 32, nullptr, kind, ~0u, arguments.data(), 16, doubles.data(),
             shuffled.data());
    launch(examples::votes, 1, 200, nullptr, in.data(), out.data());
    launch(examples::pipeline, 1, 32, nullptr, items.data(), 100, scale.data(), shift.data(), streamed.data(),
           seen.data());
    launch(examples::coordinates, dim3(2, 3, 2), dim3(4, 2, 3), nullptr, out.data());
    launch(examples::atomics, 5, 64, nullptr, in.data(), ints.data(), unsigneds.data(), floats.data(), out.data());
    launch(examples::halves, 1, 32, nullptr, 3, 5, in.data(), out.data());
    launch(examples::two_ways, 1, 32, nullptr, in.data(), out.data());
    launch(examples::neighbors, 1, 32, nullptr, in.data(), out.data(), 4);
    launch(examples::reverse, 1, 256, nullptr, out.data(), 100);
    launch(examples::bits, 2, 64, nullptr, in.data(), 100, out.data());
    launch(mistakes::reverse<true>, 1, 64, nullptr, floats.data());
    for (int mistake = 0; mistake < mistakes::kRefusedCount; mistake++) {
      bool caught = false;
      try {
        launch(mistakes::refused, 2, 64, nullptr, mistake);
      } catch (const cuda_on_host::Error &) {
        caught = true;
      }
      if (!caught) throw cuda_on_host::Error("a mistake was not refused: " + std::to_string(mistake));
    }
    cuda_on_host::cuda_on_host_set_order(7);
  }
}

void run_mistake(const char *name) {
  std::vector<float> floats(64);
  std::vector<int> ints(64);
  const auto is = [name](const char *other) { return std::strcmp(name, other) == 0; };
  if (is("no_barrier")) launch(mistakes::reverse<false>, 1, 64, nullptr, floats.data());
  else if (is("no_syncwarp")) launch(mistakes::shuffle_for_syncwarp, 1, 32, nullptr, ints.data());
  else if (is("blocks_race")) launch(mistakes::blocks_share_a_sum, 2, 64, nullptr, ints.data());
  else if (is("half_atomic")) launch(mistakes::atomic_and_plain, 1, 64, nullptr, ints.data());
  else if (is("beyond_shared")) launch(mistakes::beyond_shared, 1, 64, nullptr, floats.data(), 1);
  else if (is("beyond_template")) launch(mistakes::beyond_shared_of_template<float>, 1, 64, nullptr, floats.data(), 1);
  else if (is("beyond_local")) launch(mistakes::beyond_local, 1, 64, nullptr, floats.data(), 1);
  else if (is("beyond_global")) launch(mistakes::beyond_global, 1, 64, nullptr, floats.data(), 1);
  else if (is("misaligned")) launch(mistakes::misaligned, 1, 1, nullptr, floats.data());
  else throw cuda_on_host::Error(std::string("no mistake has the name ") + name);
}

} // namespace

int main(int argc, char **argv) {
  try {
    if (argc > 1) run_mistake(argv[1]);
    else run_all();
  } catch (const std::exception &error) {
    std::fprintf(stderr, "examples_program: %s\n", error.what());
    return 1;
  }
  return 0;
}
