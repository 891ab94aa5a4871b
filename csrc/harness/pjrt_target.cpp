#include "pjrt_target.h"

#include <cstring>
#include <memory>
#include <string_view>

#include "pjrt.h"
#include "pjrt_api.h"

namespace so3krates::pjrt {
namespace {

PJRT_NamedValue text_option(const char* name, std::string_view text) {
  auto value = SIZED(PJRT_NamedValue);
  value.name = name;
  value.name_size = std::strlen(name);
  value.type = PJRT_NamedValue_kString;
  value.string_value = text.data();
  value.value_size = text.size();
  return value;
}

// A handle of the plugin, and the entry that frees it.
template <typename Args, typename Handle>
auto owned(const PJRT_Api* api, Handle* handle, PJRT_Error* (*PJRT_Api::*destroy)(Args*), std::size_t size,
           Handle* Args::* member) {
  const auto release = [=](Handle* h) {
    auto args = sized<Args>(size);
    args.*member = h;
    call_quietly(api, destroy, args);
  };
  return std::unique_ptr<Handle, decltype(release)>(handle, release);
}

std::string optimised(const PJRT_Api* api, PJRT_Executable* executable, const std::string& operation) {
  auto program = SIZED(PJRT_Program);
  auto args = SIZED(PJRT_Executable_OptimizedProgram_Args);
  args.executable = executable;
  args.program = &program;
  call(api, &PJRT_Api::PJRT_Executable_OptimizedProgram, args, operation);  // says how much room it takes
  std::string code(program.code_size, '\0');
  program.code = code.data();
  call(api, &PJRT_Api::PJRT_Executable_OptimizedProgram, args, operation);
  return code;
}

// What the plugin says to arguments of no size.
template <typename Args>
std::string refusal(const PJRT_Api* api, PJRT_Error* (*PJRT_Api::*entry)(Args*), Args args = {}) {
  try {
    call(api, entry, args, "a call without arguments");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

Compiled compile_for(const std::string& plugin_path, const std::string& target, const std::uint8_t* artifact,
                     std::size_t bytes, const std::string& name, bool deterministic, const std::string& platform) {
  const PJRT_Api* api = plugin(plugin_path);
  const PJRT_NamedValue create_options[] = {text_option("target_config", target), text_option("topology", "1x1x1")};
  auto topology = SIZED(PJRT_TopologyDescription_Create_Args);
  topology.create_options = create_options;
  topology.num_options = 2;
  call(api, &PJRT_Api::PJRT_TopologyDescription_Create, topology, "describing a device to " + plugin_path);
  const auto device =
      owned(api, topology.topology, &PJRT_Api::PJRT_TopologyDescription_Destroy,
            PJRT_TopologyDescription_Destroy_Args_STRUCT_SIZE, &PJRT_TopologyDescription_Destroy_Args::topology);

  const std::string operation = "compiling program '" + name + "'";
  PJRT_Program program = stablehlo(artifact, bytes);
  const std::string options = compile_options(api, plugin_path, platform, deterministic);
  auto args = SIZED(PJRT_Compile_Args);
  args.topology = device.get();
  args.program = &program;
  args.compile_options = options.data();
  args.compile_options_size = options.size();
  call(api, &PJRT_Api::PJRT_Compile, args, operation);
  const auto executable = owned(api, args.executable, &PJRT_Api::PJRT_Executable_Destroy,
                                PJRT_Executable_Destroy_Args_STRUCT_SIZE, &PJRT_Executable_Destroy_Args::executable);

  auto memory = SIZED(PJRT_Executable_GetCompiledMemoryStats_Args);
  memory.executable = executable.get();
  call(api, &PJRT_Api::PJRT_Executable_GetCompiledMemoryStats, memory, operation);
  return {static_cast<std::size_t>(memory.argument_size_in_bytes),
          static_cast<std::size_t>(memory.output_size_in_bytes), static_cast<std::size_t>(memory.alias_size_in_bytes),
          static_cast<std::size_t>(memory.temp_size_in_bytes), optimised(api, executable.get(), operation)};
}

std::map<std::string, StructSizes> struct_sizes(const std::string& path) {
  const PJRT_Api* api = plugin(path);
  std::map<std::string, StructSizes> found;
#define ASK(Entry) found[#Entry "_Args"] = {Entry##_Args_STRUCT_SIZE, refusal(api, &PJRT_Api::Entry)};
  ASK(PJRT_Plugin_Initialize)
  ASK(PJRT_Plugin_Attributes)
  ASK(PJRT_Event_Destroy)
  ASK(PJRT_Event_Await)
  ASK(PJRT_Client_Create)
  ASK(PJRT_Client_Destroy)
  ASK(PJRT_Client_PlatformName)
  ASK(PJRT_Client_PlatformVersion)
  ASK(PJRT_Client_AddressableDevices)
  ASK(PJRT_Client_BufferFromHostBuffer)
  ASK(PJRT_Client_CreateUninitializedBuffer)
  ASK(PJRT_Client_Compile)
  ASK(PJRT_Client_DmaMap)
  ASK(PJRT_Client_DmaUnmap)
  ASK(PJRT_Device_GetDescription)
  ASK(PJRT_DeviceDescription_Kind)
  ASK(PJRT_Buffer_Destroy)
  ASK(PJRT_Buffer_ReadyEvent)
  ASK(PJRT_Buffer_CopyRawToHost)
  ASK(PJRT_Buffer_UnsafePointer)
  ASK(PJRT_Executable_Destroy)
  ASK(PJRT_Executable_NumOutputs)
  ASK(PJRT_Executable_Serialize)
  ASK(PJRT_Executable_GetCompiledMemoryStats)
  ASK(PJRT_Executable_DeserializeAndLoad)
  ASK(PJRT_LoadedExecutable_GetExecutable)
  ASK(PJRT_LoadedExecutable_Destroy)
  ASK(PJRT_LoadedExecutable_Execute)
#undef ASK
  PJRT_ExecuteOptions options{};
  auto execute = SIZED(PJRT_LoadedExecutable_Execute_Args);
  execute.options = &options;
  found["PJRT_ExecuteOptions"] = {PJRT_ExecuteOptions_STRUCT_SIZE,
                                  refusal(api, &PJRT_Api::PJRT_LoadedExecutable_Execute, execute)};
  return found;
}

}  // namespace so3krates::pjrt
