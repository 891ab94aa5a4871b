// What a plugin does without a device: it compiles for one that is described, and says which structs it takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace so3krates::pjrt {

// A program compiled for a device that need not be there.
struct Compiled {
  std::size_t arguments, results, aliases, temporary;  // bytes; aliases: of the results that take an argument's storage
  std::string program;                                 // optimised, a serialised xla.HloModuleProtoWithConfig
};

// target: text of a stream_executor.GpuTargetConfigProto. Options are those of Client::compile. Throws Error.
Compiled compile_for(const std::string& plugin, const std::string& target, const std::uint8_t* artifact,
                     std::size_t bytes, const std::string& name, bool deterministic, const std::string& platform);

struct StructSizes {
  std::size_t ours;
  std::string refusal;  // what the plugin says of a struct without any member: the size that it wants at least
};

// Of the structs that this library hands to a plugin, by name.
std::map<std::string, StructSizes> struct_sizes(const std::string& plugin);

}  // namespace so3krates::pjrt
