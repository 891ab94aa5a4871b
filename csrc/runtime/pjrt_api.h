// Calls of the PJRT C API, for the files that make them: pjrt.cpp, pjrt_plugin.cpp and the harness' pjrt_target.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "error.h"
#include "xla/pjrt/c/pjrt_c_api.h"

namespace so3krates::pjrt {

template <typename Args>
Args sized(std::size_t struct_size) {
  Args args{};
  args.struct_size = struct_size;
  return args;
}
#define SIZED(Args) sized<Args>(Args##_STRUCT_SIZE)

// A StableHLO portable artifact, which has to stay as long as the program.
inline PJRT_Program stablehlo(const std::uint8_t* artifact, std::size_t bytes) {
  constexpr std::string_view format = "mlir";
  auto program = SIZED(PJRT_Program);
  program.code = const_cast<char*>(reinterpret_cast<const char*>(artifact));
  program.code_size = bytes;
  program.format = format.data();
  program.format_size = format.size();
  return program;
}

// Turns a failure into an Error "<operation> failed: <reason>".
void check(const PJRT_Api* api, PJRT_Error* error, const std::string& operation);

// Calls an entry of the plugin's table, which may be shorter than ours and may have holes.
template <typename Args>
void call(const PJRT_Api* api, PJRT_Error* (*PJRT_Api::*entry)(Args*), Args& args, const std::string& operation) {
  const auto end = reinterpret_cast<const char*>(&(api->*entry) + 1) - reinterpret_cast<const char*>(api);
  if (static_cast<std::size_t>(end) > api->struct_size || api->*entry == nullptr)
    throw Error(operation + " failed: the plugin does not offer this (its PJRT API is " +
                std::to_string(api->pjrt_api_version.major_version) + "." +
                std::to_string(api->pjrt_api_version.minor_version) + ")");
  check(api, (api->*entry)(&args), operation);
}

// For destructors: nothing can be done about a failure.
template <typename Args>
void call_quietly(const PJRT_Api* api, PJRT_Error* (*PJRT_Api::*entry)(Args*), Args& args) noexcept {
  try {
    call(api, entry, args, "release");
  } catch (const std::exception&) {
  }
}

// The plugin of a shared library, which is opened once and stays open.
const PJRT_Api* plugin(const std::string& path);
bool is_gpu(const PJRT_Api* api);
// Serialised xla.CompileOptionsProto of the programs of the plugin at `path`, which is for `platform`.
std::string compile_options(const PJRT_Api* api, const std::string& path, const std::string& platform,
                            bool deterministic);
// Name and value of everything that the plugin says of itself.
std::map<std::string, std::string> attributes(const PJRT_Api* api);

}  // namespace so3krates::pjrt
